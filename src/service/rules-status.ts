import { systemIptables } from "../firewall/iptables.ts";
import { type Dropped, droppedPackets, limitsStatus } from "../firewall/limits/own-table.ts";
import { type FirewallStatus, firewallStatus } from "../firewall/status.ts";
import type { FirewallSpec } from "../firewall/types.ts";
import { systemWall } from "../firewall/wall/wall.ts";

/** The wanted firewall compared with the actual one: the iptables rules, the second wall and the limits of connections. */
export interface RulesStatus {
  readonly healthy: boolean;
  /** The first wall. */
  readonly rules: FirewallStatus;
  readonly limits: {
    readonly problems: readonly string[];
    readonly notes: readonly string[];
    /** What the limits have dropped since their table was made; null where that cannot be read. */
    readonly dropped: Dropped | null;
  };
  readonly wall: {
    /** Why this kernel cannot have a second wall; null where it can. */
    readonly unavailable: string | null;
    readonly problems: readonly string[];
  };
  /** One line for each rule that is missing, changed, or not in first place. */
  readonly differences: readonly string[];
  /** Remarks that do not make it unhealthy. */
  readonly notes: readonly string[];
}

/** Compares; changes nothing. @throws ImdsProxyError `permission` where this process may not look. */
export async function rulesStatus(spec: FirewallSpec): Promise<RulesStatus> {
  const rules = await firewallStatus(systemIptables(), spec);
  const limits = spec.limits === undefined ? { problems: [], notes: [] } : limitsStatus(spec.limits);
  const secondWall = systemWall();
  const wall = { unavailable: secondWall.unavailable, problems: secondWall.problems(spec) };
  const differences = [
    ...rules.deviations.map(
      ({ family, table, detail }) => `${family === "ipv4" ? "IPv4" : "IPv6"} ${table}: ${detail}`,
    ),
    ...limits.problems,
    ...wall.problems.map((problem) => `second wall: ${problem}`),
  ];
  return {
    healthy: differences.length === 0,
    rules,
    limits: { ...limits, dropped: droppedPackets() },
    wall,
    differences,
    notes: [...rules.notes, ...limits.notes],
  };
}
