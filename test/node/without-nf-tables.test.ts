import { afterAll, beforeAll, expect, test } from "bun:test";
import { FirewallNode, METADATA } from "../firewall/node-support.ts";
import { describeAsRoot } from "../support/root.ts";
import { withoutNetlink } from "../support/without-netlink.ts";

/**
 * A kernel without nf_tables, for which the refusal of its netlink protocol stands: the limits of connections cannot be had,
 * and all the rest can. (A kernel whose module is really absent: test/platforms/conntrack.test.ts.)
 */

const NETLINK_NETFILTER = 12;
const MISSING =
  "nf_tables cannot be used here: users' new and tracked connections have no limit, and packets with a routing header pass";

describeAsRoot("where the kernel has no nf_tables", () => {
  let node: FirewallNode;
  const imdsproxy = (...args: string[]) =>
    node.node.exec({
      user: "root",
      argv: withoutNetlink(NETLINK_NETFILTER, ["/run/bin/imdsproxy", "iptables", ...args]),
    });
  beforeAll(async () => {
    node = await FirewallNode.start({ kind: "hyperpod", iptables: "legacy" });
    await node.listen(["127.0.0.1", "254"]);
  });
  afterAll(() => node?.node.stop());

  test("apply says that the limits are missing, and brings the rules", async () => {
    for (const said of ["the firewall is in place", "nothing to do"]) {
      const { exitCode, stdout, stderr } = await imdsproxy("apply");
      expect([exitCode, stdout + stderr]).toEqual([0, expect.stringContaining(said)]);
      expect(stdout + stderr).toContain(MISSING);
    }
    expect(await node.ask({ user: "alice" }, "ask", ...METADATA)).toBe("proxy");
  });

  test("a dry run says so, too", async () => {
    const { exitCode, stdout, stderr } = await imdsproxy("apply", "--dry-run");
    expect([exitCode, stdout + stderr]).toEqual([0, expect.stringContaining(MISSING)]);
  });

  test("status is healthy, and names it in its text and in --json", async () => {
    const text = await imdsproxy("status");
    expect([text.exitCode, text.stdout]).toEqual([0, expect.stringContaining(`note: ${MISSING}`)]);
    const json = await imdsproxy("status", "--json");
    const { healthy, limits, notes } = JSON.parse(json.stdout) as {
      healthy: boolean;
      limits: { problems: string[]; notes: string[] };
      notes: string[];
    };
    expect([json.exitCode, healthy, limits.problems]).toEqual([0, true, []]);
    expect(limits.notes).toEqual([expect.stringContaining(MISSING)]);
    expect(notes).toContain(limits.notes[0] ?? "");
  });

  test("remove leaves nothing, and does not miss what was never there", async () => {
    const { exitCode, stdout } = await imdsproxy("remove");
    expect([exitCode, stdout]).toEqual([0, expect.stringContaining("is removed")]);
  });
});
