import type { ChainState, RuleSet } from "./types.ts";

/**
 * Reads the output of iptables-save and ip6tables-save (iptables-save(8)). Counters are left aside. Pure.
 *
 * An unknown line is an error: rules must not be judged by a part of the output.
 */
export function parseSave(text: string): RuleSet {
  const tables = new Map<string, Map<string, { policy: string | null; rules: string[] }>>();
  let table: Map<string, { policy: string | null; rules: string[] }> | null = null;
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    if (line.startsWith("*")) {
      table = new Map();
      tables.set(line.slice(1).trim(), table);
      continue;
    }
    if (line === "COMMIT") {
      table = null;
      continue;
    }
    const chain = /^:(\S+) (\S+)/.exec(line);
    const rule = /^(?:\[\d+:\d+\] )?-A (\S+) ?(.*)$/.exec(line);
    if (table !== null && chain !== null) {
      const [, name = "", policy = "-"] = chain;
      table.set(name, { policy: policy === "-" ? null : policy, rules: [] });
    } else if (table !== null && rule !== null) {
      const [, name = "", rest = ""] = rule;
      const rules = table.get(name)?.rules;
      if (rules === undefined) throw new Error(`iptables-save: a rule of the unknown chain ${name}`);
      rules.push(rest);
    } else throw new Error(`iptables-save: cannot read the line ${JSON.stringify(line)}`);
  }
  return tables;
}

const NONE: ChainState = { policy: null, rules: [] };

/** The rules of a chain, none where the chain or its table is absent. */
export function rulesOf(rules: RuleSet, table: string, chain: string): readonly string[] {
  return (rules.get(table)?.get(chain) ?? NONE).rules;
}
