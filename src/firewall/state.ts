import { ImdsProxyError } from "../errors.ts";
import type { ChainState, RuleSet } from "./types.ts";

/** How much of a line is quoted, in characters. */
const QUOTED = 200;

/** A comment in a rule may hold anything; what is not printable ASCII is quoted as `?`. */
function unreadable(why: string, line: string): ImdsProxyError {
  const quoted = line.slice(0, QUOTED).replaceAll(/[^ -~]/g, "?");
  return new ImdsProxyError(
    "command-failed",
    `cannot read the output of iptables-save: ${why}: ${quoted}`,
    "the rules cannot be compared while it is there: see by iptables-save and ip6tables-save which program made it, and remove it",
  );
}

/**
 * Reads the output of iptables-save and ip6tables-save (iptables-save(8)). Counters are left aside. Pure.
 *
 * An unknown line is an error: rules must not be judged by a part of the output.
 *
 * @throws ImdsProxyError `command-failed`, with the line.
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
      if (rules === undefined) throw unreadable("a rule of a chain that is not declared", line);
      rules.push(rest);
    } else throw unreadable("a line that is no table, chain or rule of one", line);
  }
  return tables;
}

const NONE: ChainState = { policy: null, rules: [] };

/** The rules of a chain, none where the chain or its table is absent. */
export function rulesOf(rules: RuleSet, table: string, chain: string): readonly string[] {
  return (rules.get(table)?.get(chain) ?? NONE).rules;
}
