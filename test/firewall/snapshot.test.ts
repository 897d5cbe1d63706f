import { describe, expect, test } from "bun:test";
import {
  type Attribute,
  bytes,
  bytesOf,
  encodeAttributes,
  find,
  nest,
  text,
  textOf,
  u32,
  u32Of,
  u64,
  walkAttributes,
} from "../../src/firewall/nftables/attributes.ts";
import { expression, FLAG, type NftMessage } from "../../src/firewall/nftables/batch.ts";
import { changedByText } from "../../src/firewall/nftables/events.ts";
import {
  CHAIN,
  CMP,
  COMPAT,
  COUNTER,
  DATA,
  IMMEDIATE,
  META,
  META_KEY,
  MSG,
  RULE,
  VERDICT,
  VERDICT_ATTR,
  XT,
} from "../../src/firewall/nftables/names.ts";
import {
  asSnapshot,
  capture,
  chainsOf,
  type FoundChain,
  readBaseHook,
  readRule,
  replay,
  type Snapshot,
} from "../../src/firewall/nftables/snapshot.ts";
import { wantedTable } from "../../src/firewall/rules.ts";
import { FAMILIES, type Family, type TableName } from "../../src/firewall/types.ts";
import { HYPERPOD } from "./support.ts";

const view = (array: Uint8Array): DataView => new DataView(array.buffer, array.byteOffset, array.byteLength);

const counter = (packets = 0n) =>
  expression("counter", u64(COUNTER.BYTES, packets * 60n), u64(COUNTER.PACKETS, packets));
const jump = (chain: string) =>
  expression(
    "immediate",
    u32(IMMEDIATE.DREG, 0),
    nest(
      IMMEDIATE.DATA,
      nest(DATA.VERDICT, u32(VERDICT_ATTR.CODE, VERDICT.JUMP >>> 0), text(VERDICT_ATTR.CHAIN, chain)),
    ),
  );
const isTcp = [
  expression("meta", u32(META.DREG, 1), u32(META.KEY, META_KEY.L4PROTO)),
  expression("cmp", u32(CMP.SREG, 1), u32(CMP.OP, 0), nest(CMP.DATA, bytes(DATA.VALUE, Uint8Array.of(6)))),
];
const match = (info: number) =>
  expression("match", text(XT.NAME, "owner"), u32(XT.REV, 1), bytes(XT.INFO, Uint8Array.of(info, 0, 0, 0)));

/** A kernel that holds rules and takes batches. */
class Kernel {
  readonly chains = new Map<
    string,
    {
      hook: Attribute[] | null;
      rules: {
        handle: number;
        expressions: Attribute[] | Uint8Array;
        userdata: Uint8Array | null;
        compat: boolean;
      }[];
    }
  >();
  #handles = 0;
  put(family: Family, table: string, chain: string, hook: Attribute[] | null, rules: Attribute[][]): void {
    this.chains.set(`${family === "ipv4" ? 2 : 10} ${table} ${chain}`, {
      hook,
      rules: rules.map((expressions) => ({
        handle: ++this.#handles,
        expressions,
        userdata: null,
        compat: true,
      })),
    });
  }
  read = (family: Family, table: TableName): Map<string, FoundChain> => {
    const found = new Map<string, FoundChain>();
    for (const [key, { hook, rules }] of this.chains) {
      const [number, of, chain = ""] = key.split(" ");
      if (number !== (family === "ipv4" ? "2" : "10") || of !== table) continue;
      const parsed = rules.map(({ handle, expressions, userdata }) => {
        const attributes = encodeAttributes([
          u64(RULE.HANDLE, BigInt(handle)),
          expressions instanceof Uint8Array
            ? bytes(RULE.EXPRESSIONS, expressions)
            : nest(RULE.EXPRESSIONS, ...expressions),
          ...(userdata === null ? [] : [bytes(RULE.USERDATA, userdata)]),
        ]);
        const rule = readRule(walkAttributes(view(attributes)) ?? []);
        if (rule === null) throw new Error("damaged");
        return rule;
      });
      const base = hook === null ? null : readBaseHook(walkAttributes(view(encodeAttributes(hook))) ?? []);
      found.set(chain, { hook: base, rules: parsed });
    }
    return found;
  };
  take(messages: readonly NftMessage[]): void {
    for (const { command, family, flags, attributes } of messages) {
      const read = walkAttributes(view(encodeAttributes(attributes))) ?? [];
      const string = (type: number) => {
        const payload = find(read, type);
        return payload === undefined ? "" : textOf(payload);
      };
      if (command === MSG.NEWTABLE) continue;
      if (command === MSG.NEWCHAIN) {
        const key = `${family} ${string(CHAIN.TABLE)} ${string(CHAIN.NAME)}`;
        const hook = attributes.filter(({ type }) => type === CHAIN.HOOK || type === CHAIN.TYPE);
        if (!this.chains.has(key)) this.chains.set(key, { hook: hook.length === 0 ? null : hook, rules: [] });
        continue;
      }
      const chain = this.chains.get(`${family} ${string(RULE.TABLE)} ${string(RULE.CHAIN)}`);
      if (chain === undefined) throw new Error("ENOENT: no such chain");
      if (command === MSG.DELRULE) {
        const handle = find(read, RULE.HANDLE);
        const number = handle === undefined ? null : Number(handle.getBigUint64(0));
        const before = chain.rules.length;
        chain.rules = chain.rules.filter((rule) => number !== null && rule.handle !== number);
        if (number !== null && chain.rules.length !== before - 1) throw new Error("ENOENT: no such rule");
        continue;
      }
      const expressions = find(read, RULE.EXPRESSIONS);
      const compat = find(read, RULE.COMPAT);
      const userdata = find(read, RULE.USERDATA);
      const rule = {
        handle: ++this.#handles,
        expressions: expressions === undefined ? new Uint8Array() : bytesOf(expressions),
        userdata: userdata === undefined ? null : bytesOf(userdata),
        compat: compat !== undefined && u32Of(find(walkAttributes(compat) ?? [], COMPAT.PROTO)) === 6,
      };
      if ((flags & FLAG.APPEND) !== 0) chain.rules.push(rule);
      else chain.rules.unshift(rule);
    }
  }
}

const WANTED = FAMILIES.flatMap((family) => [
  wantedTable({ ...HYPERPOD, containers: "proxy" }, family, "filter"),
  wantedTable({ ...HYPERPOD, containers: "proxy" }, family, "nat"),
]);
const HOOKS: Record<string, number> = { PREROUTING: 0, INPUT: 1, FORWARD: 2, OUTPUT: 3 };
const hookOf = (table: string, chain: string): Attribute[] => [
  text(CHAIN.TYPE, table),
  nest(CHAIN.HOOK, u32(1, HOOKS[chain] ?? 0), u32(2, (table === "nat" ? -100 : 0) >>> 0)),
];

/** A kernel with everything of ours in it, and somebody else's rule in each of its own chains. */
function rightKernel(): Kernel {
  const kernel = new Kernel();
  for (const { family, table, chains, hooks } of WANTED) {
    for (const { name, rules } of chains) {
      kernel.put(
        family,
        table,
        name,
        null,
        rules.map((_, i) => [...(i % 2 === 0 ? isTcp : []), match(i), counter(BigInt(i))]),
      );
    }
    for (const { from, to } of hooks)
      kernel.put(family, table, from, hookOf(table, from), [
        [counter(5n), jump(to)],
        [match(99), counter()],
      ]);
  }
  return kernel;
}

const captured = (kernel: Kernel): Snapshot => {
  const snapshot = capture(WANTED, kernel.read);
  if (snapshot === null) throw new Error("not captured");
  return snapshot;
};

describe("a snapshot", () => {
  test("finds nothing to do where all is as it was, whatever the counters say", () => {
    const kernel = rightKernel();
    const snapshot = captured(kernel);
    for (const { rules } of kernel.chains.values())
      for (const rule of rules)
        if (!(rule.expressions instanceof Uint8Array))
          rule.expressions = rule.expressions.map((one) =>
            JSON.stringify(one) === JSON.stringify(counter()) ? counter(12_345n) : one,
          );
    expect(replay(snapshot, kernel.read)).toEqual({ problems: [], messages: [] });
  });
  test("is JSON, and what is not one is none", () => {
    const snapshot = captured(rightKernel());
    expect(asSnapshot(JSON.parse(JSON.stringify(snapshot)))).toEqual(snapshot);
    for (const other of [
      null,
      {},
      { tables: [{}] },
      { tables: "no" },
      { tables: [{ ...snapshot.tables[0], table: "raw" }] },
    ])
      expect(asSnapshot(other)).toBeNull();
  });
  test("is about our chains and those from which they are entered", () => {
    expect(chainsOf(captured(rightKernel()))[0]).toEqual({
      family: "ipv4",
      table: "filter",
      chains: ["IMDSPROXY", "IMDSPROXY-FORWARD", "IMDSPROXY-INPUT", "OUTPUT", "FORWARD", "INPUT"],
    });
  });
  test.each([
    ["a chain is missing", (kernel: Kernel) => kernel.chains.delete("2 nat IMDSPROXY")],
    ["a rule is missing", (kernel: Kernel) => kernel.chains.get("10 nat IMDSPROXY")?.rules.pop()],
    ["we are not entered first", (kernel: Kernel) => kernel.chains.get("2 filter OUTPUT")?.rules.reverse()],
  ])("is not taken where %s", (_, spoil) => {
    const kernel = rightKernel();
    spoil(kernel);
    expect(capture(WANTED, kernel.read)).toBeNull();
  });

  const damages: [string, (kernel: Kernel) => void, string[]][] = [
    [
      "everything is flushed",
      (kernel) => kernel.chains.clear(),
      [
        "IPv4 filter: everything of ours is gone",
        "IPv4 nat: everything of ours is gone",
        "IPv6 filter: everything of ours is gone",
        "IPv6 nat: everything of ours is gone",
      ],
    ],
    [
      "the rules of one table are",
      (kernel) => {
        for (const [key, chain] of kernel.chains) if (key.startsWith("2 nat")) chain.rules.length = 0;
      },
      ["IPv4 nat: everything of ours is gone"],
    ],
    [
      "rules of a chain are lost",
      (kernel) => kernel.chains.get("2 filter IMDSPROXY")?.rules.splice(1, 2),
      ["IPv4 filter: the chain IMDSPROXY has lost 2 rules"],
    ],
    [
      "a rule is changed",
      (kernel) =>
        kernel.chains
          .get("2 filter IMDSPROXY")
          ?.rules.splice(0, 1, { handle: 500, expressions: [match(77)], userdata: null, compat: true }),
      ["IPv4 filter: the chain IMDSPROXY has other rules than it should"],
    ],
    [
      "a rule is added",
      (kernel) =>
        kernel.chains
          .get("10 nat IMDSPROXY")
          ?.rules.unshift({ handle: 500, expressions: [match(77)], userdata: null, compat: true }),
      ["IPv6 nat: the chain IMDSPROXY has other rules than it should"],
    ],
    [
      "somebody comes before us",
      (kernel) =>
        kernel.chains
          .get("2 nat OUTPUT")
          ?.rules.unshift({ handle: 500, expressions: [match(77)], userdata: null, compat: true }),
      ["IPv4 nat: OUTPUT enters IMDSPROXY, but not first"],
    ],
    [
      "the jump is there twice",
      (kernel) =>
        kernel.chains
          .get("2 nat OUTPUT")
          ?.rules.push({ handle: 500, expressions: [jump("IMDSPROXY")], userdata: null, compat: true }),
      ["IPv4 nat: OUTPUT enters IMDSPROXY 2 times"],
    ],
    [
      "the jump has a condition",
      (kernel) =>
        kernel.chains.get("2 nat OUTPUT")?.rules.splice(0, 1, {
          handle: 500,
          expressions: [match(1), jump("IMDSPROXY")],
          userdata: null,
          compat: true,
        }),
      ["IPv4 nat: OUTPUT enters IMDSPROXY only on a condition"],
    ],
    [
      "the jump is gone",
      (kernel) => kernel.chains.get("2 filter INPUT")?.rules.shift(),
      ["IPv4 filter: INPUT does not enter IMDSPROXY-INPUT"],
    ],
  ];
  for (const [what, damage, words] of damages) {
    test(`where ${what}: says so, and one batch puts it right and leaves what is others'`, () => {
      const kernel = rightKernel();
      const snapshot = captured(kernel);
      damage(kernel);
      const others = JSON.stringify(kernel.chains.get("2 filter FORWARD")?.rules.at(-1)?.expressions);
      const { problems, messages } = replay(snapshot, kernel.read);
      expect(problems).toEqual(words);
      kernel.take(messages);
      expect(replay(snapshot, kernel.read)).toEqual({ problems: [], messages: [] });
      expect(captured(kernel)).toEqual(snapshot);
      if (others !== undefined)
        expect(JSON.stringify(kernel.chains.get("2 filter FORWARD")?.rules.at(-1)?.expressions)).toBe(others);
    });
  }
  test("tells the kernel of the protocol that a rule compares with: extensions of x_tables ask for it", () => {
    const snapshot = captured(rightKernel());
    const kernel = new Kernel();
    kernel.take(replay(snapshot, kernel.read).messages);
    expect(
      kernel.chains
        .get("2 filter IMDSPROXY")
        ?.rules.map(({ compat }) => compat)
        .slice(0, 3),
    ).toEqual([true, false, true]);
  });
});

test("who changed the rules is said in words, the last three of many", () => {
  expect(changedByText([])).toBe("");
  expect(
    changedByText([
      { pid: 1, name: "nft" },
      { pid: 1, name: "nft" },
    ]),
  ).toBe("changed by nft (pid 1)");
  const many = [1, 2, 3, 4, 5].map((pid) => ({ pid, name: "iptables" }));
  expect(changedByText(many)).toBe(
    "changed by iptables (pid 3), iptables (pid 4), iptables (pid 5) and 2 before",
  );
});
