import { describe, expect, test } from "bun:test";
import { apply } from "../../src/firewall/operations.ts";
import { canonicalRule } from "../../src/firewall/rule-text.ts";
import { wantedTable } from "../../src/firewall/rules.ts";
import { exemptUids } from "../../src/firewall/spec.ts";
import { FAMILIES } from "../../src/firewall/types.ts";
import { spellUids, strangersIn } from "../../src/firewall/uid-text.ts";
import { servicesOf } from "../../src/firewall/without-nss.ts";
import { FakeIptables, HYPERPOD } from "./support.ts";

describe("spellUids()", () => {
  test.each([
    [
      "-A IMDSPROXY -m owner --uid-owner 990 -j RETURN",
      "-A IMDSPROXY -m owner --uid-owner 990:990 -j RETURN",
    ],
    [
      "-A X -p tcp -m owner ! --uid-owner 0-4294967294 -m tcp -j RETURN",
      "-A X -p tcp -m owner ! --uid-owner 0:4294967294 -m tcp -j RETURN",
    ],
    ["-m owner --gid-owner 5 --uid-owner 7", "-m owner --gid-owner 5:5 --uid-owner 7:7"],
    ["-m owner --uid-owner 990:990", "-m owner --uid-owner 990:990"],
    ['-m comment --comment "--uid-owner 5 " -j X', '-m comment --comment "--uid-owner 5 " -j X'],
    [
      "-A X -m owner --uid-owner 1\n-A X -m owner --uid-owner 2\n",
      "-A X -m owner --uid-owner 1:1\n-A X -m owner --uid-owner 2:2\n",
    ],
  ])("%p becomes %p", (saved, spelled) => {
    expect(spellUids(saved)).toBe(spelled);
    expect(spellUids(spelled)).toBe(spelled);
    expect(canonicalRule(spelled)).toBe(canonicalRule(saved));
  });
  test("leaves no number of ours that could be an account's name", async () => {
    for (const containers of ["leave", "reject", "proxy"] as const) {
      const iptables = new FakeIptables();
      const { restores } = await apply(iptables, { ...HYPERPOD, containers });
      expect(restores.map(({ text }) => text).join()).toMatch(/--uid-owner 500:500 /);
      for (const { text } of restores) expect(text).not.toMatch(/-owner \d+(?!\d*:)/);
    }
  });
});

/** iptables on a node with an account that is called like a number: its uid takes that number's place in a rule. */
class Misled extends FakeIptables {
  constructor(name: string, uid: string) {
    super();
    const write = this.write.bind(this);
    this.write = (restores) =>
      write(
        restores.map((restore) => ({
          ...restore,
          text: restore.text.replaceAll(new RegExp(`(?<=--uid-owner )${name}(:\\d+)?(?= )`, "g"), uid),
        })),
      );
  }
}

describe("rules that let another uid pass than was written", () => {
  test("are closed at once, and apply() says so and fails", async () => {
    const iptables = new Misled("500", "1000");
    await expect(apply(iptables, HYPERPOD)).rejects.toMatchObject({
      code: "command-failed",
      problem: expect.stringContaining("let another uid pass"),
    });
    for (const family of FAMILIES) {
      expect(iptables.text(family)).toContain("-j REJECT");
      // But for the rule that drops what people send from the agent's place, which lets nobody pass.
      expect(iptables.text(family)).not.toMatch(/(?<!! )--uid-owner (?!1000[:-]4294967294 .*-j DROP)/);
    }
    expect(iptables.written).toHaveLength(2);
  });
  test("are those of our chains alone, whatever else names a uid", () => {
    const rules = (uids: readonly number[]) =>
      new Map([
        [
          "filter",
          new Map([
            [
              "IMDSPROXY",
              {
                policy: null,
                rules:
                  wantedTable({ ...HYPERPOD, exemptUids: uids }, "ipv4", "filter").chains[0]?.rules ?? [],
              },
            ],
            ["OTHER", { policy: null, rules: ["-m owner --uid-owner 77 -j RETURN"] }],
          ]),
        ],
      ]);
    expect(strangersIn(rules([0, 500]), [0, 500])).toEqual([]);
    expect(strangersIn(rules([0, 1000]), [0, 500])).toEqual(["1000"]);
    expect(strangersIn(rules([1000]), [0])).toEqual(["1000"]);
  });
  test("of an earlier configuration are replaced in the ordinary way", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, { ...HYPERPOD, exemptUids: [0, 7, 8] });
    await apply(iptables, HYPERPOD);
    expect(iptables.written).toHaveLength(2);
    expect(iptables.text("ipv4")).toContain("--uid-owner 500 ");
  });
});

describe("an entry of `exempt` that is digits", () => {
  const accounts = (known: Record<string, number>) => ({
    uidOf: async (name: string) => known[name] ?? null,
    localUidOf: () => null,
  });
  test("is a uid", async () => {
    expect(await exemptUids(["3000"], accounts({}))).toEqual({ uids: [0, 3000], unknown: null });
  });
  test("is refused where an account of another uid is called so, and names both", async () => {
    const { uids, unknown } = await exemptUids(["3000"], accounts({ "3000": 1000 }));
    expect(uids).toEqual([0]);
    expect(unknown?.problem).toContain(
      "3000 is ambiguous: it is uid 3000, and the name of an account whose uid is 1000",
    );
  });
  test("is a uid where the account that is called so has that very uid", async () => {
    expect(await exemptUids(["3000"], accounts({ "3000": 3000 }))).toEqual({
      uids: [0, 3000],
      unknown: null,
    });
  });
  test("is a uid where the directory does not answer", async () => {
    const broken = {
      uidOf: async (name: string) => {
        if (name === "3000") throw new Error("getent hangs");
        return null;
      },
      localUidOf: () => null,
    };
    expect((await exemptUids(["3000"], broken)).uids).toEqual([0, 3000]);
  });
});

test("servicesOf() reads the services of accounts and groups, and no action or comment", () => {
  expect(
    servicesOf(
      "# passwd: no\npasswd:  files sss [NOTFOUND=return] ldap # nis\ngroup: files\thang\nhosts: dns\n initgroups: x-y\n",
    ),
  ).toEqual(["files", "sss", "ldap", "hang", "x-y"]);
});
