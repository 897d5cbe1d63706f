import { systemIptables } from "../../firewall/iptables.ts";
import { limitsStatus } from "../../firewall/limits/own-table.ts";
import type { Iptables } from "../../firewall/operations.ts";
import { parseRule } from "../../firewall/rule-text.ts";
import { rulesOf } from "../../firewall/state.ts";
import { firewallStatus } from "../../firewall/status.ts";
import type { FirewallSpec, RuleSet } from "../../firewall/types.ts";
import { systemWall } from "../../firewall/wall/wall.ts";
import { withoutWall } from "../../firewall/walls.ts";
import { runCommand } from "../../service/command.ts";
import { findAccount } from "../../service/facts.ts";
import { imdsChainWarning } from "../../service/parallelcluster.ts";
import { type FirewallFacts, type Known, known } from "../types.ts";

/** What is in the firewall, by the same comparison as `iptables status`. An edge. */

const FAMILY = { ipv4: "IPv4", ipv6: "IPv6" } as const;
/** Rules that are named for each chain. */
const MOST_RULES = 5;

/** Rules of OUTPUT that stand before the one that leads to ours. Pure. */
export function rulesAbove(current: RuleSet, family: "ipv4" | "ipv6"): string[] {
  return (["nat", "filter"] as const).flatMap((table) => {
    const rules = rulesOf(current, table, "OUTPUT");
    const ours = rules.findIndex((rule) => parseRule(rule).target === "IMDSPROXY");
    const above = ours === -1 ? [] : rules.slice(0, ours);
    const more =
      above.length > MOST_RULES
        ? [`${FAMILY[family]} ${table} OUTPUT: ${above.length - MOST_RULES} more before ours`]
        : [];
    return [
      ...above.slice(0, MOST_RULES).map((rule) => `${FAMILY[family]} ${table} OUTPUT, before ours: ${rule}`),
      ...more,
    ];
  });
}

export async function firewallHere(
  spec: FirewallSpec,
  iptables: Iptables = systemIptables(),
): Promise<Known<FirewallFacts>> {
  const status = await firewallStatus(iptables, spec);
  const above: string[] = [];
  const unguarded: string[] = [];
  for (const { family, problem } of await iptables.access()) {
    if (problem === null) above.push(...rulesAbove(await iptables.read(family), family));
    else if (/not guarded/.test(problem)) unguarded.push(problem);
  }
  const limits = spec.limits === undefined ? { problems: [], notes: [] } : limitsStatus(spec.limits);
  const wall = systemWall();
  const account = await findAccount().catch(() => null);
  const isOther = (text: string) =>
    text.startsWith("in the other iptables") || text.startsWith("the other iptables");
  return known(
    {
      deviations: status.deviations
        .filter(({ kind, detail }) => kind !== "jump-not-first" && !isOther(detail))
        .map(({ family, table, detail }) => `${FAMILY[family]} ${table}: ${detail}`),
      wallProblems: wall.problems(spec),
      limitProblems: limits.problems,
      withoutWall: wall.unavailable === null ? null : withoutWall(wall.unavailable),
      limitNotes: limits.notes,
      unguarded,
      above,
      otherBackend: [
        ...status.deviations
          .filter(({ detail }) => isOther(detail))
          .map(({ family, table, detail }) => `${FAMILY[family]} ${table}: ${detail}`),
        ...status.notes.filter(isOther),
      ],
      parallelCluster: await imdsChainWarning(runCommand, account?.uid ?? null),
    },
    "iptables-save, ip rule, nft list table inet imdsproxy_limits",
  );
}
