import { describe, expect, test } from "bun:test";
import type { Accounts } from "../../src/firewall/accounts.ts";
import { standingAccounts } from "../../src/firewall/platform-accounts.ts";
import { exemptUids } from "../../src/firewall/spec.ts";
import { personWhoCanTake } from "../../src/firewall/taken-uids.ts";

const LOCAL: Readonly<Record<string, number>> = {
  root: 0,
  imdsproxy: 991,
  alice: 2001,
  dockremap: 980,
  ops: 100_500,
};
const localUidOf = (name: string) => LOCAL[name] ?? null;
const accounts: Accounts = { uidOf: async (name) => LOCAL[name] ?? null, localUidOf };
const whoCan = (uid: number, ranges: string) => personWhoCanTake(uid, ranges, localUidOf);

describe("personWhoCanTake()", () => {
  test.each<[string, number, string, string | null]>([
    ["nobody's range", 99_999, "alice:100000:65536", null],
    ["the first of a person's", 100_000, "alice:100000:65536", "alice"],
    ["the last", 165_535, "alice:100000:65536", "alice"],
    ["one behind it", 165_536, "alice:100000:65536", null],
    ["a person's by number", 100_000, "2001:100000:65536", "2001"],
    ["a directory's person", 100_000, "carol:100000:65536", "carol"],
    ["root's", 100_000, "root:100000:65536", null],
    ["root's by number", 100_000, "0:100000:65536", null],
    ["a daemon's", 100_000, "dockremap:100000:65536", null],
    ["root's and a person's", 100_000, "root:100000:65536\nalice:90000:65536", "alice"],
    ["its own", 100_500, "ops:100000:65536", null],
    ["its own, and a person's", 100_500, "ops:100000:65536\nalice:100500:1", "alice"],
    ["a system account's", 991, "alice:900:200", "alice"],
    ["root, who is root whatever the file says", 0, "alice:0:10", null],
  ])("%s", (_, uid, ranges, person) => expect(whoCan(uid, ranges)).toBe(person));

  test("takes an owner for a person where /etc/passwd cannot be read, or digits are also a name", () => {
    const broken = () => {
      throw new Error("EIO");
    };
    expect(personWhoCanTake(100_000, "root:100000:65536", broken)).toBe("root");
    expect(personWhoCanTake(100_000, "980:100000:65536", (name) => (name === "980" ? 2_005 : null))).toBe(
      "980",
    );
    expect(personWhoCanTake(100_000, "2001:100000:65536", (name) => (name === "2001" ? 980 : null))).toBe(
      "2001",
    );
  });
});

describe("a uid that a person can take", () => {
  test("is not exempt, by name, by number or as the service's; the others are, and each is named", async () => {
    const ranges = "alice:100000:65536\nalice:991:1\n";
    const { uids, unknown } = await exemptUids(
      ["ops", "root", "165535", "165536", "alice"],
      accounts,
      () => ranges,
    );
    expect(uids).toEqual([0, 2001, 165_536]);
    for (const said of ["imdsproxy (uid 991)", "ops (uid 100500)", "uid 165535"])
      expect(unknown?.problem).toContain(`${said} is also a subordinate uid of "alice"`);
  });

  test("of those that systemd-nsresourced gives to whoever asks is not exempt where it is on the node", async () => {
    const directory = {
      ...accounts,
      uidOf: async (name: string) => (name === "monitoring" ? 1_000_005 : null),
    };
    const names = ["monitoring", "65000", "61183"];
    const exempt = (isThere: boolean) =>
      exemptUids(
        names,
        directory,
        () => "",
        () => isThere,
      );
    const { uids, unknown } = await exempt(true);
    // 991 is the service's account; 61183 is no dynamic uid.
    expect(uids).toEqual([0, 991, 61_183]);
    expect(unknown?.problem).toContain(
      "monitoring (uid 1000005) is one of the uids that systemd-nsresourced gives",
    );
    expect(unknown?.problem).toContain("uid 65000 is one");
    expect((await exempt(false)).uids).toEqual([0, 991, 61_183, 65_000, 1_000_005]);
  });

  test("is no platform's account", () => {
    const facts = {
      passwd: "cwagent:x:995:995::/:/usr/sbin/nologin\nalice:x:2001:2001::/:/bin/sh\n",
      shadow: null,
      exists: () => true,
    };
    const standing = (subordinateUids: string) =>
      standingAccounts("ec2", { ...facts, subordinateUids }).find(({ name }) => name === "cwagent")?.standing;
    expect(standing("alice:100000:65536\n")).toEqual({ kind: "exempt", uid: 995 });
    expect(standing("alice:900:100\n")).toMatchObject({
      kind: "refused",
      why: "its uid, 995, is also a subordinate uid of alice in /etc/subuid",
    });
  });
});
