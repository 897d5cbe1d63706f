import { readFileSync } from "node:fs";

/** Where the watch over the firewall says how the rules stand; the proxy reads it for its metrics. */
export const FIREWALL_HEALTH_FILE = "/run/imdsproxy/firewall.json";

/** How the firewall rules stand, as JSON in a file. Times are ISO 8601 in UTC, null for never. */
export interface FirewallHealth {
  /** How often the watch has put the rules back, since boot. */
  readonly repairs: number;
  readonly lastRepair: string | null;
  readonly lastCheck: string | null;
  /** Whether the rules were right at the last check, or could be put right. */
  readonly healthy: boolean;
}

/** What the watch said last; null where it said nothing that can be read. */
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
