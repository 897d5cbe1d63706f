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
  /** Repairs since boot, by kind; absent where the watch is of an earlier version. */
  readonly repairsByKind?: Readonly<Partial<Record<RepairKind, number>>>;
}

const KINDS = ["iptables", "routing", "limits", "closed"] as const;
/** What was repaired: a rule of iptables, a routing rule or route, the table of limits, or the closed state of the boot. */
export type RepairKind = (typeof KINDS)[number];

/** The kind of one line of what the watch found wrong: each begins with where it was. */
export function repairKind(found: string): RepairKind {
  if (found.startsWith("second wall: ")) return "routing";
  if (found.startsWith("nf_tables: ")) return "limits";
  return found.startsWith("closed to users") ? "closed" : "iptables";
}

/** The last report of the watch; null where there is none that can be read. */
export function readFirewallHealth(path: string = FIREWALL_HEALTH_FILE): FirewallHealth | null {
  try {
    const { repairs, healthy, lastRepair, lastCheck, repairsByKind } = JSON.parse(
      readFileSync(path, "utf8"),
    ) as Record<string, unknown>;
    if (typeof repairs !== "number") return null;
    const byKind = kindsOf(repairsByKind);
    return {
      ...(byKind === null ? {} : { repairsByKind: byKind }),
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

function kindsOf(value: unknown): Partial<Record<RepairKind, number>> | null {
  if (typeof value !== "object" || value === null) return null;
  const counts = value as Record<string, unknown>;
  return Object.fromEntries(
    KINDS.map((kind) => [kind, counts[kind]]).filter(([, count]) => typeof count === "number"),
  );
}
