import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { planTable } from "../../src/firewall/plan.ts";
import { parseRule } from "../../src/firewall/rule-text.ts";
import { emptyTable, OWN_CHAINS, wantedTable } from "../../src/firewall/rules.ts";
import { parseSave, rulesOf } from "../../src/firewall/state.ts";
import type { FirewallSpec, RuleSet, TableName } from "../../src/firewall/types.ts";
import { holds } from "../support/fuzz.ts";
import { EC2, HYPERPOD, restore } from "./support.ts";

const applied = (spec: FirewallSpec, state: RuleSet, table: TableName): RuleSet => {
  const { text } = planTable(state, wantedTable(spec, "ipv4", table));
  return text === null ? state : restore(state, text);
};
const kinds = (state: RuleSet, spec = HYPERPOD, table: TableName = "nat") =>
  planTable(state, wantedTable(spec, "ipv4", table)).deviations.map(({ kind }) => kind);

/** The state with one line of iptables-restore more. */
const and = (state: RuleSet, line: string, table: TableName = "nat"): RuleSet =>
  restore(state, `*${table}\n${line}\nCOMMIT\n`);

describe("planTable()", () => {
  const right = applied(HYPERPOD, new Map(), "nat");

  test("makes everything on an empty table, in one transaction", () => {
    const plan = planTable(new Map(), wantedTable(HYPERPOD, "ipv4", "filter"));
    expect(plan.text).toBe(
      [
        "*filter",
        ":IMDSPROXY - [0:0]",
        ...(wantedTable(HYPERPOD, "ipv4", "filter").chains[0]?.rules ?? []).map(
          (rule) => `-A IMDSPROXY ${rule}`,
        ),
        "-I OUTPUT 1 -j IMDSPROXY",
        "COMMIT",
        "",
      ].join("\n"),
    );
    expect(plan.deviations.map(({ kind }) => kind)).toEqual(["chain-missing", "jump-missing"]);
  });
  test("does nothing where all is right", () => {
    expect(planTable(right, wantedTable(HYPERPOD, "ipv4", "nat"))).toEqual({ deviations: [], text: null });
  });
  test("is not disturbed by another spelling of the same rules", () => {
    const text = `*nat
:OUTPUT ACCEPT [0:0]
:IMDSPROXY - [0:0]
-A OUTPUT -j IMDSPROXY
-A IMDSPROXY -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -m owner --uid-owner 0 -j DNAT --to-destination 169.254.0.2:9081
-A IMDSPROXY -p tcp -d 169.254.169.254 -m tcp --dport 80 -m owner --uid-owner 500 -j DNAT --to-destination 169.254.0.2:9081
-A IMDSPROXY -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:254
COMMIT
`;
    expect(kinds(parseSave(text))).toEqual([]);
  });
  test.each([
    ["the jump is gone", (s: RuleSet) => and(s, "-D OUTPUT -j IMDSPROXY"), ["jump-missing"]],
    ["the jump is repeated", (s: RuleSet) => and(s, "-A OUTPUT -j IMDSPROXY"), ["jump-changed"]],
    [
      "somebody's rule stands first",
      (s: RuleSet) =>
        and(
          s,
          "-I OUTPUT 1 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081",
        ),
      ["jump-not-first"],
    ],
    [
      "the jump has a condition",
      (s: RuleSet) => and(and(s, "-D OUTPUT -j IMDSPROXY"), "-A OUTPUT -p udp -j IMDSPROXY"),
      ["jump-changed"],
    ],
    [
      "a rule is missing",
      (s: RuleSet) => and(s, `-D IMDSPROXY ${rulesOf(s, "nat", "IMDSPROXY")[0]}`),
      ["chain-changed"],
    ],
    ["a rule is one too many", (s: RuleSet) => and(s, "-A IMDSPROXY -j ACCEPT"), ["chain-changed"]],
    ["a rule came before ours", (s: RuleSet) => and(s, "-I IMDSPROXY 1 -j RETURN"), ["chain-changed"]],
    ["the chain is empty", (s: RuleSet) => and(s, "-F IMDSPROXY"), ["chain-changed"]],
    [
      "containers were served before",
      (s: RuleSet) => applied({ ...HYPERPOD, containers: "proxy" }, s, "nat"),
      ["leftover", "leftover"],
    ],
  ] as const)("repairs it where %s", (_, harm, expected) => {
    const harmed = harm(right);
    expect(kinds(harmed)).toEqual([...expected]);
    const repaired = applied(HYPERPOD, harmed, "nat");
    expect(kinds(repaired)).toEqual([]);
    expect(rulesOf(repaired, "nat", "OUTPUT")[0]).toBe("-j IMDSPROXY");
  });
  test("replaces only the chain that changed", () => {
    const state = applied({ ...HYPERPOD, containers: "reject" }, new Map(), "filter");
    const { text } = planTable(
      state,
      wantedTable({ ...HYPERPOD, containers: "reject", exemptUids: [0] }, "ipv4", "filter"),
    );
    expect(text).toContain(":IMDSPROXY - [0:0]\n");
    expect(text).not.toContain("IMDSPROXY-FORWARD");
    expect(text).not.toContain("-I OUTPUT");
  });
  test("says what it found", () => {
    const details = planTable(and(right, "-I IMDSPROXY 1 -j RETURN"), wantedTable(HYPERPOD, "ipv4", "nat"));
    expect(details.deviations[0]?.detail).toStartWith(
      'the chain IMDSPROXY is not as it should be: rule 1 is "-j RETURN", not "-d 169.254.169.254/32',
    );
  });

  const foreign = fc.constantFrom(
    "-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
    "-A OUTPUT -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081",
    "-I OUTPUT 1 -j ACCEPT",
    "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
    '-A POSTROUTING -m comment --comment "to IMDSPROXY -j IMDSPROXY" -j ACCEPT',
    "-A PREROUTING -j DOCKER",
  );
  const meddling = fc.constantFrom(
    "-A OUTPUT -j IMDSPROXY",
    "-I OUTPUT 1 -p udp -j IMDSPROXY",
    "-A POSTROUTING -j IMDSPROXY",
    "-A PREROUTING -j IMDSPROXY-PREROUTING",
    "-A IMDSPROXY -j ACCEPT",
    "-F IMDSPROXY",
    ":IMDSPROXY - [0:0]",
    ":IMDSPROXY-PREROUTING - [0:0]",
    "-A IMDSPROXY -j IMDSPROXY-PREROUTING",
  );
  const lines = fc.array(fc.oneof(foreign, meddling), { maxLength: 12 });
  const spec = fc.constantFrom<FirewallSpec>(
    HYPERPOD,
    EC2,
    { ...HYPERPOD, containers: "proxy" },
    { ...EC2, exemptUids: [0, 7, 8] },
  );
  /** Lines that make no sense where they come are left out, as iptables would refuse them. */
  const build = (all: readonly string[]): RuleSet => {
    let state = restore(new Map(), "*nat\n:DOCKER - [0:0]\nCOMMIT\n");
    for (const line of all) {
      try {
        state = and(state, line);
      } catch {
        // Refused.
      }
    }
    return state;
  };
  const isOurs = (rule: string) => /^IMDSPROXY/.test(parseRule(rule).target ?? "");
  const foreignRules = (state: RuleSet): string[] =>
    [...(state.get("nat") ?? [])].flatMap(([name, { rules }]) =>
      name.startsWith("IMDSPROXY")
        ? []
        : rules.filter((rule) => !isOurs(rule)).map((rule) => `${name} ${rule}`),
    );

  test("reaches what is wanted in one step from anywhere, and touches nobody else's rules", () => {
    holds(
      fc.property(lines, spec, (all, wanted) => {
        const before = build(all);
        const after = applied(wanted, before, "nat");
        expect(planTable(after, wantedTable(wanted, "ipv4", "nat")).deviations).toEqual([]);
        expect(foreignRules(after)).toEqual(foreignRules(before));
      }),
      500,
    );
  });
  test("removes all of ours from anywhere, and touches nobody else's rules", () => {
    holds(
      fc.property(lines, (all) => {
        const before = build(all);
        const { text } = planTable(before, emptyTable("ipv4", "nat"));
        const after = text === null ? before : restore(before, text);
        for (const name of OWN_CHAINS.nat) expect(after.get("nat")?.has(name)).toBe(false);
        expect([...(after.get("nat")?.values() ?? [])].some(({ rules }) => rules.some(isOurs))).toBe(false);
        expect(foreignRules(after)).toEqual(foreignRules(before));
      }),
      500,
    );
  });
});
