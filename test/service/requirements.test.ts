import { describe, expect, test } from "bun:test";
import { type NodeFacts, unmet } from "../../src/service/requirements.ts";

const GOOD: NodeFacts = {
  uid: 0,
  systemdVersion: 252,
  missingPrograms: [],
  socketLookup: null,
  connectionTracking: null,
  cgroups: "v2",
  account: null,
  othersGroup: null,
  freeMiB: 1000,
  neededMiB: 112,
  glibc: "glibc 2.31",
  kernel: "5.4.0",
};
const ACCOUNT = { uid: 999, gid: 999, shell: "/usr/sbin/nologin", local: true };

describe("unmet()", () => {
  test("has nothing against a node with all that is needed, with and without the account", () => {
    expect(unmet(GOOD)).toEqual([]);
    expect(unmet({ ...GOOD, systemdVersion: 245, cgroups: "v1", account: ACCOUNT })).toEqual([]);
    // The account has its own group's number, whoever else's group has the name.
    expect(unmet({ ...GOOD, account: ACCOUNT, othersGroup: 7000 })).toEqual([]);
  });

  const problems: readonly [string, Partial<NodeFacts>, string][] = [
    ["without root", { uid: 1000 }, "not running as root: run it with sudo"],
    ["without systemd", { systemdVersion: null }, "not booted with systemd"],
    ["with a systemd before Ubuntu 20.04's", { systemdVersion: 244 }, "systemd 244 is too old"],
    [
      "without iptables, in one line for its six programs",
      { missingPrograms: ["iptables", "iptables-save", "ip6tables"] },
      "iptables, iptables-save, ip6tables not found: install the package iptables",
    ],
    [
      "without sock_diag",
      { socketLookup: "no answer" },
      "cannot say who owns a socket (no answer): load the module tcp_diag",
    ],
    ["without conntrack", { connectionTracking: "errno 22" }, "load the module nf_conntrack_netlink"],
    ["without room", { freeMiB: 10 }, "10 MiB are free below /usr/local/bin, 112 are needed"],
    [
      "with an account of a directory service",
      { account: { ...ACCOUNT, local: false } },
      "from a directory service",
    ],
    [
      "with a group of a directory service",
      { othersGroup: 7000 },
      "the group imdsproxy (gid 7000) comes from a",
    ],
    [
      "with a person's account",
      { account: { ...ACCOUNT, uid: 1000 } },
      "uid 1000, which is no system account's",
    ],
    ["with an account that is root", { account: { ...ACCOUNT, uid: 0 } }, "uid 0"],
    [
      "with an account that can log in",
      { account: { ...ACCOUNT, shell: "/bin/bash" } },
      "the shell /bin/bash",
    ],
  ];
  for (const [what, facts, says] of problems) {
    test(`names what is wrong in one line: ${what}`, () => {
      const found = unmet({ ...GOOD, ...facts });
      expect(found).toHaveLength(1);
      expect(found[0]).toContain(says);
      expect(found[0]).not.toContain("\n");
    });
  }
});
