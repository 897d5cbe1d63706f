import { readFileSync } from "node:fs";

/** The file in which the watch over the firewall reports; the proxy reads it for its metrics. */
export const FIREWALL_HEALTH_FILE = "/run/imdsproxy/firewall.json";

/** The state of the firewall rules, as JSON in a file. Times are ISO 8601 in UTC, null for never. */
export interface FirewallHealth {
  /** How often the watch has repaired the rules since boot. */
  readonly repairs: number;
  readonly lastRepair: string | null;
  readonly lastCheck: string | null;
  /** Whether the rules were right at the last check, or could be repaired. */
  readonly healthy: boolean;
}

/** The last report of the watch; null where there is none that can be read. */
export function readFirewallHealth(path: string = FIREWALL_HEALTH_FILE): FirewallHealth | null {
  try {
    const { repairs, healthy, lastRepair, lastCheck } = JSON.parse(readFileSync(path, "utf8")) as Record<
      string,
      unknown
    >;
    if (typeof repairs !== "number") return null;
    return {
      repairs,
      lastRepair: timeOf(lastRepair),
      lastCheck: timeOf(lastCheck),
      healthy: healthy === true,
    };
  } catch {
    return null;
  }
}

const timeOf = (value: unknown): string | null =>
  typeof value === "string" && !Number.isNaN(Date.parse(value)) ? value : null;
