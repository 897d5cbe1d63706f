import { canonicalRule, parseRule } from "./rule-text.ts";
import { OWN_CHAINS } from "./rules.ts";
import type { Family, RuleSet, TableName, TableState, WantedTable } from "./types.ts";

/** One thing in which a table differs from what it should be. */
export interface Deviation {
  readonly family: Family;
  readonly table: TableName;
  readonly chain: string;
  readonly kind: /** A chain of ours is not there. */
    | "chain-missing"
    /** A chain of ours holds other rules than it should. */
    | "chain-changed"
    /** Nothing leads from the kernel's chain to ours. */
    | "jump-missing"
    /** More than one rule leads there, or one under a condition. */
    | "jump-changed"
    /** Somebody's rules stand before ours. */
    | "jump-not-first"
    /** Something of ours is there that should not be. */
    | "leftover";
  /** For people: what was found. */
  readonly detail: string;
}

/** How a table differs, and the input of iptables-restore --noflush that corrects it; null where it is right. */
export interface TablePlan {
  readonly deviations: readonly Deviation[];
  readonly text: string | null;
}

const NO_TABLE: TableState = new Map();

/** The rules of a chain that lead to another, as they stand. */
const jumpsTo = (table: TableState, from: string, to: string): string[] =>
  (table.get(from)?.rules ?? []).filter((rule) => parseRule(rule).target === to);

/** Compares a table with what it should hold of ours, and writes the one transaction that makes it so. Pure. */
export function planTable(current: RuleSet, wanted: WantedTable): TablePlan {
  const table = current.get(wanted.table) ?? NO_TABLE;
  const deviations: Deviation[] = [];
  const deviates = (kind: Deviation["kind"], chain: string, detail: string) =>
    deviations.push({ family: wanted.family, table: wanted.table, chain, kind, detail });
  const chains: string[] = [];
  const rules: string[] = [];
  const jumps: string[] = [];
  const removals: string[] = [];

  for (const { name, rules: wantedRules } of wanted.chains) {
    const found = table.get(name);
    if (found === undefined) deviates("chain-missing", name, `the chain ${name} is missing`);
    else {
      const difference = firstDifference(found.rules, wantedRules);
      if (difference === null) continue;
      deviates("chain-changed", name, `the chain ${name} is not as it should be: ${difference}`);
    }
    // With --noflush this line makes the chain, or empties it (iptables-restore.c), in the same transaction as its new rules.
    chains.push(`:${name} - [0:0]`);
    rules.push(...wantedRules.map((rule) => `-A ${name} ${rule}`));
  }

  for (const { from, to } of wanted.hooks) {
    const found = jumpsTo(table, from, to);
    const isPlain = found.length === 1 && canonicalRule(found[0] ?? "") === canonicalRule(`-j ${to}`);
    const isFirst = parseRule(table.get(from)?.rules[0] ?? "").target === to;
    if (isPlain && isFirst) continue;
    if (found.length === 0) deviates("jump-missing", from, `${from} does not enter ${to}`);
    else if (isPlain) {
      deviates("jump-not-first", from, `${from} enters ${to}, but not first`);
    } else {
      deviates(
        "jump-changed",
        from,
        `${from} enters ${to} ${found.length === 1 ? `only for ${found[0]}` : `${found.length} times`}`,
      );
    }
    jumps.push(...found.map((rule) => `-D ${from} ${rule}`), `-I ${from} 1 -j ${to}`);
  }

  const keep = new Set(wanted.chains.map(({ name }) => name));
  for (const name of OWN_CHAINS[wanted.table]) {
    if (keep.has(name)) continue;
    for (const from of table.keys()) {
      // A chain of ours that still jumps there differs from what it should be, and was emptied above.
      if (keep.has(from)) continue;
      const found = jumpsTo(table, from, name);
      if (found.length === 0) continue;
      deviates("leftover", from, `${from} enters ${name}`);
      jumps.push(...found.map((rule) => `-D ${from} ${rule}`));
    }
    if (table.has(name)) {
      deviates("leftover", name, `the chain ${name} is there`);
      removals.push(`-F ${name}`, `-X ${name}`);
    }
  }

  if (deviations.length === 0) return { deviations, text: null };
  const lines = [`*${wanted.table}`, ...chains, ...rules, ...jumps, ...removals, "COMMIT"];
  return { deviations, text: lines.map((line) => `${line}\n`).join("") };
}

/** In words, the first rule that differs; null where all are the same. */
function firstDifference(found: readonly string[], wanted: readonly string[]): string | null {
  for (let i = 0; i < Math.max(found.length, wanted.length); i++) {
    const have = found[i];
    const want = wanted[i];
    if (have === undefined) return `rule ${i + 1} is missing (${want})`;
    if (want === undefined) return `rule ${i + 1} is one too many (${have})`;
    if (canonicalRule(have) !== canonicalRule(want)) return `rule ${i + 1} is "${have}", not "${want}"`;
  }
  return null;
}
