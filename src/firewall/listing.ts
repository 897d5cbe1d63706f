import { metadataRedirect, parseRule } from "./rule-text.ts";
import { OWN_CHAINS } from "./rules.ts";
import type { Family, RuleSet, TableName } from "./types.ts";

/** A chain for people, in the spelling of `iptables -S`. */
export interface ListedChain {
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
  readonly policy: string | null;
  /** All rules, or with `onlyOurs` those that concern us, each with its position in the chain, from 1. */
  readonly rules: readonly { readonly position: number; readonly rule: string }[];
  /** The command that shows the rules, where `rules` has none of them. */
  readonly shownBy?: string;
}

const OWN_TABLES = Object.keys(OWN_CHAINS) as TableName[];
const isOwnChain = (table: string, chain: string): boolean =>
  OWN_TABLES.some((name) => name === table && OWN_CHAINS[name].includes(chain));

/** Every chain, or only our own and, of the others, the rules that enter ours or redirect the metadata address. Pure. */
export function listChains(rules: RuleSet, family: Family, onlyOurs: boolean): ListedChain[] {
  const listed: ListedChain[] = [];
  for (const [table, chains] of rules) {
    for (const [chain, { policy, rules: all }] of chains) {
      const own = isOwnChain(table, chain);
      const concernsUs = (rule: string) =>
        own || isOwnChain(table, parseRule(rule).target ?? "") || metadataRedirect(rule) !== null;
      const shown = all
        .map((rule, i) => ({ position: i + 1, rule }))
        .filter(({ rule }) => !onlyOurs || concernsUs(rule));
      if (onlyOurs && !own && shown.length === 0) continue;
      listed.push({ family, table, chain, policy, rules: shown });
    }
  }
  return listed;
}

/** The chains as text. */
export function listText(chains: readonly ListedChain[], onlyOurs: boolean): string {
  const lines: string[] = [];
  let title = "";
  for (const { family, table, chain, policy, rules } of chains) {
    const next = `${family === "ipv4" ? "iptables" : "ip6tables"} -t ${table} -S`;
    if (next !== title) lines.push(`${lines.length === 0 ? "" : "\n"}# ${next}`);
    title = next;
    lines.push(policy === null ? `-N ${chain}` : `-P ${chain} ${policy}`);
    for (const { position, rule } of rules) {
      // Of a chain that is shown in part, the position is what matters.
      const partly = onlyOurs && policy !== null;
      lines.push(partly ? `-A ${chain} ${rule}   # position ${position}` : `-A ${chain} ${rule}`);
    }
  }
  return lines.join("\n");
}
