import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  limitsSpec,
  MOST_SHARES,
  type SubordinateShare,
  spread,
  subordinateShares,
} from "../../../src/firewall/limits/figures.ts";
import { fingerprint, replaceMessages } from "../../../src/firewall/limits/messages.ts";
import { askedOnce, needsPlainKeys } from "../../../src/firewall/limits/node.ts";
import { DROP_KINDS, limitsTable, tableText } from "../../../src/firewall/limits/table.ts";
import { encodeBatch } from "../../../src/firewall/nftables/batch.ts";
import { holds } from "../../support/fuzz.ts";

const NODE = {
  exemptUids: [0, 990],
  conntrackMax: 262_144 as number | null,
  subordinates: [] as SubordinateShare[],
};
const AUTO = {
  newConnectionsPerUser: { perSecond: 2_000, burst: 4_000 },
  trackedConnectionsPerUser: "auto",
} as const;
const specOf = (over: Partial<typeof NODE> = {}, tracked: "auto" | number | null = "auto") =>
  limitsSpec({ ...AUTO, trackedConnectionsPerUser: tracked }, { ...NODE, ...over });

describe("limitsSpec()", () => {
  const cases: readonly (readonly [max: number | null, live: number])[] = [
    [262_144, 16_384],
    [1_048_576, 65_536],
    // Room for 4,000 processes with three requests each comes before the sixteenth.
    [65_536, 12_288],
    [null, 12_288],
    [8_192, 2_048],
    [1, 1],
  ];
  for (const [max, live] of cases) {
    test(`a table of ${max ?? "nobody knows how many"} entries gives a user ${live}`, () => {
      expect(specOf({ conntrackMax: max }).tracked?.user.live).toBe(live);
    });
  }
  test("takes a number as it is, and null for no limit", () => {
    expect(specOf({}, 500).tracked?.user).toEqual({ live: 500, begun: { perSecond: 125, burst: 500 } });
    expect(specOf({}, null).tracked).toBeNull();
  });
  test("all users together leave a fifth of the table free, what is closed and still there included", () => {
    for (const max of [65_536, 262_144, 1_048_576]) {
      const everyone = specOf({ conntrackMax: max }).tracked?.everyone;
      if (everyone === undefined) throw new Error("no limit");
      const { lists, each } = spread(everyone.live, 1_024);
      const closed = everyone.begun.burst + 5 * everyone.begun.perSecond;
      expect(lists * each + closed).toBeLessThan(0.85 * max);
      expect(everyone.live + closed).toBeLessThan(0.8 * max);
    }
  });
});

describe("spread()", () => {
  test("keeps lists short, and gives no list less than its part", () => {
    holds(
      fc.property(fc.integer({ min: 1, max: 10_000_000 }), (live) => {
        const { lists, each } = spread(live, 1_024);
        const isPowerOfTwo = Number.isInteger(Math.log2(lists));
        return isPowerOfTwo && lists <= 1_024 && lists * each >= live && (each <= 256 || lists === 1_024);
      }),
      500,
    );
  });
  test("a small limit is exact", () => expect(spread(50, 128)).toEqual({ lists: 1, each: 50 }));
});

describe("subordinateShares()", () => {
  test("has one share for all ranges of an owner", () => {
    const ranges = [
      { owner: "bob", first: 200_000, last: 265_535 },
      { owner: "alice", first: 100_000, last: 165_535 },
      { owner: "alice", first: 300_000, last: 365_535 },
    ];
    expect(subordinateShares(ranges)).toEqual([
      {
        first: 100_000,
        ranges: [
          [100_000, 165_535],
          [300_000, 365_535],
        ],
      },
      { first: 200_000, ranges: [[200_000, 265_535]] },
    ]);
  });
  test("leaves out uid 0 and what is no uid", () => {
    expect(
      subordinateShares([
        { owner: "a", first: 0, last: 10 },
        { owner: "b", first: 4_294_900_000, last: 4_294_967_295 },
        { owner: "c", first: 20, last: 10 },
      ]),
    ).toEqual([]);
  });
  test("every uid of a range is in one share exactly, and owners of one uid share it", () => {
    const range = fc.record({
      owner: fc.constantFrom("a", "b", "c", "d", "e"),
      first: fc.integer({ min: 1, max: 60 }),
      length: fc.integer({ min: 1, max: 20 }),
    });
    holds(
      fc.property(fc.array(range, { maxLength: 12 }), (found) => {
        const ranges = found.map(({ owner, first, length }) => ({ owner, first, last: first + length - 1 }));
        const shares = subordinateShares(ranges);
        for (let uid = 1; uid <= 100; uid++) {
          const owned = ranges.some(({ first, last }) => first <= uid && uid <= last);
          const within = shares.filter((share) => share.ranges.some(([a, b]) => a <= uid && uid <= b));
          if (within.length !== (owned ? 1 : 0)) return false;
        }
        const shareOf = (uid: number) =>
          shares.findIndex((share) => share.ranges.some(([a, b]) => a <= uid && uid <= b));
        return ["a", "b", "c", "d", "e"].every((owner) => {
          const mine = ranges.filter((one) => one.owner === owner).map(({ first }) => shareOf(first));
          return new Set(mine).size <= 1;
        });
      }),
      500,
    );
  });
  test("owners over the most share the last share, and none goes without", () => {
    const ranges = Array.from({ length: MOST_SHARES + 10 }, (_, i) => ({
      owner: `u${i}`,
      first: 100_000 + i * 65_536,
      last: 165_535 + i * 65_536,
    }));
    const shares = subordinateShares(ranges);
    expect(shares).toHaveLength(MOST_SHARES);
    expect(shares.at(-1)?.ranges).toHaveLength(11);
  });
});

describe("the table", () => {
  const shares = subordinateShares([{ owner: "alice", first: 100_000, last: 165_535 }]);
  test("is another where anything else is wanted, also where the kernel cannot do it", () => {
    const without = { count: false, shortTimes: false, counters: true };
    const prints = [
      limitsTable(specOf()),
      limitsTable(specOf({ exemptUids: [0] })),
      limitsTable(specOf({ subordinates: shares })),
      limitsTable(specOf({}, 500)),
      limitsTable(specOf({}, null)),
      limitsTable(specOf(), without),
      limitsTable(specOf({}, 500), without),
      limitsTable(specOf(), { count: true, shortTimes: false, counters: true }),
      limitsTable(specOf(), { count: true, shortTimes: true, counters: false }),
    ].map(fingerprint);
    expect(new Set(prints).size).toBe(prints.length);
    expect(fingerprint(limitsTable(specOf()))).toBe(prints[0] as string);
  });
  test("holds users' connections to the metadata address that the redirect left alone, whatever the limits are", () => {
    for (const limits of [{}, { newConnectionsPerUser: null, trackedConnectionsPerUser: null }]) {
      const { chains } = limitsTable(limitsSpec({ ...AUTO, ...limits }, NODE));
      const late = chains.find(({ name }) => name === "late");
      // After the redirect, which is at -100, and after iptables' block, whose reset is what users are to see.
      expect(late?.priority).toBe(10);
      expect(late?.rules.map(({ text }) => text)).toEqual([
        "ip daddr 169.254.169.254 tcp dport 80 tcp flags & (syn | ack) == syn jump unredirected",
        "ip6 daddr fd00:ec2::254 tcp dport 80 tcp flags & (syn | ack) == syn jump unredirected",
      ]);
      const unredirected = chains.find(({ name }) => name === "unredirected");
      expect(unredirected?.rules.map(({ text }) => text)).toEqual([
        "meta skuid @exempt return",
        'counter name "unredirected" drop',
      ]);
    }
  });
  test("holds users' connections to the agents as well, of either family, where there are any", () => {
    const agents = [
      { address: "169.254.0.2", port: 9081 },
      { address: "fd77::9", port: 8080 },
    ];
    const { chains } = limitsTable(limitsSpec(AUTO, { ...NODE, agents }));
    expect(
      chains
        .find(({ name }) => name === "late")
        ?.rules.slice(2)
        .map(({ text }) => text),
    ).toEqual([
      "ip daddr 169.254.0.2 tcp dport 9081 tcp flags & (syn | ack) == syn jump unredirected",
      "ip6 daddr fd77::9 tcp dport 8080 tcp flags & (syn | ack) == syn jump unredirected",
    ]);
  });
  test("counts whatever it drops, unless the kernel cannot count", () => {
    const spec = specOf({ subordinates: shares });
    const textWith = (counters: boolean) =>
      tableText(limitsTable(spec, { count: true, shortTimes: true, counters }));
    const drops = textWith(true)
      .split("\n")
      .filter((line) => line.endsWith("drop"));
    const counted = drops.map((line) => /counter name "(\w+)" drop$/.exec(line)?.[1]);
    expect(new Set(counted)).toEqual(new Set(DROP_KINDS));
    expect(textWith(false)).not.toContain("counter");
    const uncounted = textWith(true).replaceAll(/ ?counter name "\w+"|^ {2}counter \w+ \{.*\n/gm, "");
    const bare = (text: string) => text.replaceAll(/ +/g, " ");
    expect(bare(textWith(false))).toBe(bare(uncounted));
  });
  test("without limits refuses source routes still", () => {
    const spec = limitsSpec({ newConnectionsPerUser: null, trackedConnectionsPerUser: null }, NODE);
    const text = tableText(limitsTable(spec));
    expect(text).toContain("exthdr rt exists jump source_routed");
    expect(text).toContain("ip option lsrr exists jump source_routed");
    expect(text).not.toContain("limit rate");
    expect(text).not.toContain("ct count");
  });
  test("of as many owners as there can be is one message of a size that the kernel takes", () => {
    const all = subordinateShares(
      Array.from({ length: 3_000 }, (_, i) => ({
        owner: `u${i}`,
        first: 100_000 + i * 65_536,
        last: 165_535 + i * 65_536,
      })),
    );
    const batch = encodeBatch(replaceMessages(limitsTable(specOf({ subordinates: all }))), 1);
    expect(batch.length).toBeLessThan(1_000_000);
  });
});

test("nft is asked again where it could not be started, and not where it answered or is not there", () => {
  const answers = [null, "nftables v0.9.8 (E.D.S.)", "nftables v1.0.9"];
  const needs = askedOnce(() => answers.shift() ?? null);
  expect([needs(), needs(), needs()]).toEqual([false, true, true]);
  const absent = ["", "nftables v0.9.8 (E.D.S.)"];
  const without = askedOnce(() => absent.shift() ?? null);
  expect([without(), without()]).toEqual([false, false]);
});

test("an nft that cannot list integers in a concatenation is known by its version", () => {
  const needs = (text: string) => needsPlainKeys(`nftables ${text}`);
  expect(["v0.9.3 (Topsy)", "v0.9.8 (E.D.S.)", "v1.0.2 (Lester Gooch)", "v1.0.4"].map(needs)).toEqual(
    Array(4).fill(true),
  );
  expect(
    ["v1.0.6 (Lester Gooch #5)", "v1.0.9", "v1.1.3 (Commodore Bullmoose #4)", "v2.0.0"].map(needs),
  ).toEqual(Array(4).fill(false));
  expect([needsPlainKeys(""), needsPlainKeys("what?")]).toEqual([false, false]);
  const plain = {
    ...limitsSpec({ newConnectionsPerUser: null, trackedConnectionsPerUser: "auto" }, NODE),
    plainKeys: true,
  } as const;
  expect(tableText(limitsTable(plain))).toContain("type uid . mark;");
});
