import { ImdsProxyError } from "../../src/errors.ts";
import type { Iptables, Restore, WriteFailure } from "../../src/firewall/operations.ts";
import { canonicalRule, parseRule } from "../../src/firewall/rule-text.ts";
import { FAMILIES, type Family, type FirewallSpec, type RuleSet } from "../../src/firewall/types.ts";

export const HYPERPOD: FirewallSpec = {
  upstream: { address: "169.254.0.2", port: 9081 },
  listen: { address: "127.0.0.1", port: 254 },
  exemptUids: [0, 500],
  containers: "leave",
};

export const EC2: FirewallSpec = { ...HYPERPOD, upstream: { address: "169.254.169.254", port: 80 } };

const BUILT_IN: Record<string, readonly string[]> = {
  filter: ["INPUT", "FORWARD", "OUTPUT"],
  nat: ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
};

type MutableChain = { policy: string | null; rules: string[] };
type MutableTable = Map<string, MutableChain>;

const copyOf = (rules: RuleSet): Map<string, MutableTable> =>
  new Map(
    [...rules].map(([table, chains]) => [
      table,
      new Map([...chains].map(([name, { policy, rules }]) => [name, { policy, rules: [...rules] }])),
    ]),
  );

/** What iptables-restore --noflush makes of a text; throws where it would refuse. Tables that come before stay. */
export function restore(rules: RuleSet, text: string): RuleSet {
  let done = copyOf(rules);
  let name = "";
  let next = done;
  const fail = (line: string, why: string): never => {
    throw Object.assign(new Error(`${why}: ${line}`), { done });
  };
  for (const line of text.trimEnd().split("\n")) {
    if (line.startsWith("*")) {
      name = line.slice(1);
      next = copyOf(done);
      const table: MutableTable = next.get(name) ?? new Map();
      for (const chain of BUILT_IN[name] ?? []) {
        if (!table.has(chain)) table.set(chain, { policy: "ACCEPT", rules: [] });
      }
      next.set(name, table);
      continue;
    }
    if (line === "COMMIT") {
      done = next;
      continue;
    }
    const table = next.get(name) ?? fail(line, "no table");
    const declared = /^:(\S+) - \[0:0\]$/.exec(line);
    if (declared !== null) {
      table.set(declared[1] ?? "", { policy: null, rules: [] });
      continue;
    }
    const [, command = "", chainName = "", given = ""] = /^(-[ADIFX]) (\S+) ?(.*)$/.exec(line) ?? [];
    // As iptables-save has it: one uid without a range.
    const rest = given.replaceAll(/(?<=-owner )(\d+):(\d+)/g, (_, a, b) => (a === b ? a : `${a}-${b}`));
    const chain = table.get(chainName) ?? fail(line, "no chain");
    const referenced = () =>
      [...table.values()].some(({ rules }) => rules.some((rule) => parseRule(rule).target === chainName));
    const target = () => {
      const to = parseRule(rest.replace(/^1 /, "")).target ?? "";
      if (/^IMDSPROXY/.test(to) && !table.has(to)) fail(line, "no such target");
    };
    if (command === "-A") {
      target();
      chain.rules.push(rest);
    } else if (command === "-I") {
      target();
      chain.rules.unshift(rest.replace(/^1 /, ""));
    } else if (command === "-D") {
      const at = chain.rules.findIndex((rule) => canonicalRule(rule) === canonicalRule(rest));
      if (at === -1) fail(line, "no such rule");
      chain.rules.splice(at, 1);
    } else if (command === "-F") chain.rules.length = 0;
    else if (command === "-X") {
      if (chain.rules.length > 0) fail(line, "not empty");
      if (referenced()) fail(line, "in use");
      table.delete(chainName);
    } else fail(line, "cannot parse");
  }
  return done;
}

/** iptables in memory. */
export class FakeIptables implements Iptables {
  readonly states = new Map<Family, RuleSet>(FAMILIES.map((family) => [family, new Map()]));
  readonly written: (readonly Restore[])[] = [];
  /** Runs before each write, as somebody else would change rules between our reading and our writing. */
  beforeWrite: (() => void) | null = null;
  /** A table of a family whose writing the kernel refuses. */
  refuses: { readonly family: Family; readonly table: string } | null = null;
  ipv6: string | null = null;
  /** IPv4 rules of the other backend, or that backend whole. */
  other: RuleSet | FakeIptables | null = null;
  locked = 0;

  async access() {
    return FAMILIES.map((family) => {
      const problem = family === "ipv6" ? this.ipv6 : null;
      return { family, version: problem === null ? "v1.8.9 (nf_tables)" : null, problem };
    });
  }
  async read(family: Family): Promise<RuleSet> {
    return this.states.get(family) ?? new Map();
  }
  async readOtherBackend(): Promise<RuleSet | null> {
    return (await (await this.otherBackend())?.read("ipv4")) ?? null;
  }
  async otherBackend(): Promise<FakeIptables | null> {
    if (this.other === null || this.other instanceof FakeIptables) return this.other;
    const other = new FakeIptables();
    other.states.set("ipv4", this.other);
    return other;
  }
  async write(restores: readonly Restore[]): Promise<WriteFailure | null> {
    this.beforeWrite?.();
    this.written.push(restores);
    for (const { family, text } of restores) {
      const cut =
        this.refuses?.family === family
          ? text.replace(`*${this.refuses.table}\n`, "*refused\n-A no\n")
          : text;
      try {
        this.states.set(family, restore(await this.read(family), cut));
      } catch (error) {
        const { done, message } = error as Error & { done: RuleSet };
        this.states.set(family, done);
        return { family, error: new ImdsProxyError("command-failed", message) };
      }
    }
    return null;
  }
  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    this.locked++;
    return work();
  }
  async commandOf(family: Family) {
    return `restore ${family}`;
  }
  /** Adds rules as another program would. */
  add(family: Family, text: string): void {
    this.states.set(family, restore(this.states.get(family) ?? new Map(), text));
  }
  /** All rules of a family, as text, one a line. */
  text(family: Family): string {
    const lines: string[] = [];
    for (const [table, chains] of this.states.get(family) ?? []) {
      lines.push(`*${table}`);
      for (const [name, { policy, rules }] of chains) {
        lines.push(`:${name} ${policy ?? "-"}`, ...rules.map((rule) => `-A ${name} ${rule}`));
      }
    }
    return lines.join("\n");
  }
}
