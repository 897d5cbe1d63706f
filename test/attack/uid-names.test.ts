import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { AGENT, FirewallNode, METADATA, ROOT } from "../firewall/node-support.ts";
import { describeAsRoot } from "../support/root.ts";

/**
 * Accounts that are called like numbers, as student and employee numbers are: iptables takes what stands after --uid-owner
 * for an account's name first, so that whoever has such a name would have the place of root, of the service, or of somebody
 * who is exempt.
 */

const PROBE = "/run/repository/test/firewall/probe.py";
const AS_UID =
  "import os, sys; os.setgroups([]); os.setuid(int(sys.argv[1])); os.execv(sys.executable, [sys.executable] + sys.argv[2:])";
/** By the reset of the rules, or by the routing rules of the second wall. */
const CLOSED = expect.stringMatching(/^(?:ECONNREFUSED|ENETUNREACH|EACCES)$/);
const SERVICE_UID = 990;
/** By their names, their uids. */
const PEOPLE = {
  "0": 2900,
  "990": 2901,
  "990-990": 2902,
  "0x3de": 2903,
  "0-4294967294": 2904,
  "3000": 2905,
} as const;
const PASSWD = [
  `imdsproxy:x:${SERVICE_UID}:${SERVICE_UID}::/nonexistent:/usr/sbin/nologin`,
  "toor:x:0:0::/root:/bin/sh",
  ...Object.entries(PEOPLE).map(([name, uid]) => `${name}:x:${uid}:${uid}::/:/bin/sh`),
];

for (const backend of ["nft", "legacy"] as const) {
  describeAsRoot(`accounts that are called like uids, on iptables-${backend}`, () => {
    let node: FirewallNode;
    const configure = (more: object) => node.node.write("/etc/imdsproxy/config.yaml", JSON.stringify(more));
    const saved = () => node.shell("iptables-save; ip6tables-save");
    const owners = async () =>
      [
        ...new Set(
          [...(await saved()).matchAll(/(?<!! )--uid-owner (\S+) .*-j (?:RETURN|DNAT|ACCEPT)/g)].map(
            ([, uid]) => uid,
          ),
        ),
      ].sort();
    // Not by setpriv(1), which takes 990 for an account's name first, as iptables does.
    const askAs = async (uid: number, place: readonly [string, string]) =>
      (await node.shell(`python3 -c '${AS_UID}' ${uid} ${PROBE} ask ${place.join(" ")}`)).trim();
    const direct = (uid: number) => askAs(uid, AGENT);
    const asked = (uid: number) => askAs(uid, METADATA);

    beforeAll(async () => {
      node = await FirewallNode.start({ kind: "hyperpod", iptables: backend });
      await node.shell(`cat >>/etc/passwd <<'EOF'\n${PASSWD.join("\n")}\nEOF`);
      await node.listen(["127.0.0.1", "254"]);
      configure({});
    });
    afterAll(() => node?.node.stop());

    test("take the place of the numbers in a rule that somebody writes without care", async () => {
      await node.shell("iptables -N CARELESS; iptables -A CARELESS -m owner --uid-owner 990 -j RETURN");
      expect(await node.shell("iptables -S CARELESS")).toContain(`--uid-owner ${PEOPLE["990"]} `);
      await node.shell("iptables -F CARELESS; iptables -X CARELESS");
    });
    test("have no place in ours: root and the service are let pass, and nobody else", async () => {
      await node.must("apply");
      expect(await owners()).toEqual(["0", String(SERVICE_UID)]);
      expect(await saved()).toContain("! --uid-owner 0-4294967294 ");
      for (const uid of Object.values(PEOPLE))
        expect([uid, await asked(uid), await direct(uid)]).toEqual([uid, "proxy", CLOSED]);
      for (const uid of [0, SERVICE_UID])
        expect([uid, await asked(uid), await direct(uid)]).toEqual([uid, "other", "other"]);
    });
    test("leave apply nothing to do the second time, and status nothing to complain of", async () => {
      expect(await node.must("apply")).toContain("in place already");
      expect((await node.iptables("status")).exitCode).toBe(0);
    });
    test("do not keep rules that exempt a number from being removed", async () => {
      await node.must("remove");
      expect(await saved()).not.toContain("IMDSPROXY");
    });

    describe("in `exempt`", () => {
      test("a number that is also the name of somebody else is refused, and neither of them is exempt", async () => {
        configure({ exempt: ["root", "3000"] });
        const { exitCode, stderr } = await node.iptables("apply");
        expect(exitCode).not.toBe(0);
        expect(stderr).toContain(
          `3000 is ambiguous: it is uid 3000, and the name of an account whose uid is ${PEOPLE["3000"]}`,
        );
        expect(await owners()).toEqual(["0", String(SERVICE_UID)]);
        for (const uid of [3000, PEOPLE["3000"]]) expect([uid, await direct(uid)]).toEqual([uid, CLOSED]);
      });
      test("a number that is nobody's name is that uid", async () => {
        configure({ exempt: ["root", "3001"] });
        await node.must("apply");
        expect(await owners()).toEqual(["0", "3001", String(SERVICE_UID)]);
        expect([await direct(3001), await direct(2001)]).toEqual(["other", CLOSED]);
        await node.shell("imdsproxy iptables remove");
      });
      test("a uid that a person can take by newuidmap is nobody's who is exempt; one of root's or a daemon's range is", async () => {
        // As useradd gives ranges, and a directory uids.
        const people = "ops:x:3100:3100::/:/bin/sh\ndockremap:x:980:980::/:/bin/false\n";
        const ranges = "2905:3100:10\ndockremap:3110:10\nroot:3120:10\n";
        await node.shell(`printf '${people}' >>/etc/passwd; printf '${ranges}' >/etc/subuid`);
        configure({ exempt: ["root", "ops", "3101", "3111", "3121"] });
        const { exitCode, stderr } = await node.iptables("apply");
        expect([await direct(3100), await direct(3101), await direct(3111)]).toEqual([
          CLOSED,
          CLOSED,
          "other",
        ]);
        expect(exitCode).not.toBe(0);
        expect(stderr).toContain('ops (uid 3100) is also a subordinate uid of "2905"');
        expect(stderr).toContain('uid 3101 is also a subordinate uid of "2905"');
        expect(await owners()).toEqual(["0", "3111", "3121", String(SERVICE_UID)]);
        await node.shell(": >/etc/subuid; imdsproxy iptables remove");
      });
    });

    test("a service whose account is called like a number is not made by it: the name counts", async () => {
      configure({ exempt: ["990-990"] });
      await node.must("apply");
      expect(await owners()).toEqual(["0", String(PEOPLE["990-990"]), String(SERVICE_UID)]);
      expect(await node.ask(ROOT, "ask", ...METADATA)).toBe("other");
      await node.must("remove");
    });
  });
}
