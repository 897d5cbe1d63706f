import { afterAll, beforeAll, expect, test } from "bun:test";
import { AGENT, ALICE, FirewallNode, METADATA } from "../firewall/node-support.ts";
import { eventually } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

/** The node's iptables is switched from one backend to the other, as `update-alternatives` does, with our rules in place. */

/** By the reset of the rules, or by the routing rules of the second wall. */
const CLOSED = expect.stringMatching(/^(?:ECONNREFUSED|ENETUNREACH|EACCES)$/);
const OTHER = { nft: "legacy", legacy: "nft" } as const;

for (const first of ["nft", "legacy"] as const) {
  const second = OTHER[first];
  describeAsRoot(`a node whose iptables was ${first} and is ${second} now`, () => {
    let node: FirewallNode;
    const use = (backend: "nft" | "legacy") =>
      node.shell(
        ["iptables", "ip6tables"]
          .flatMap((name) => ["", "-save", "-restore"].map((end) => [name, end]))
          .map(([name, end]) => `ln -sf /usr/sbin/${name}-${backend}${end} /run/bin/${name}${end}`)
          .join("; "),
      );
    const oursIn = async (backend: "nft" | "legacy") =>
      (await node.shell(`iptables-${backend}-save 2>/dev/null; ip6tables-${backend}-save 2>/dev/null`))
        .split("\n")
        .filter((line) => line.includes("IMDSPROXY")).length;

    beforeAll(async () => {
      node = await FirewallNode.start({ kind: "hyperpod", iptables: first });
      await node.shell("readlink -f $(command -v iptables)");
      await node.listen(["127.0.0.1", "254"]);
    });
    afterAll(() => node?.node.stop());
    /** Rules from before the switch, in the backend that iptables does not show any more. */
    const switched = async () => {
      await use(first);
      await node.must("apply");
      await use(second);
      expect([(await oursIn(first)) > 0, await oursIn(second)]).toEqual([true, 0]);
    };

    test("status names what the other backend still holds, and is not healthy", async () => {
      await switched();
      const { exitCode, stdout } = await node.iptables("status");
      expect(exitCode).toBe(1);
      expect(stdout).toContain(
        "in the other iptables (legacy beside nft, or the reverse): the chain IMDSPROXY is there",
      );
      expect(stdout).toContain("to put it right: sudo imdsproxy iptables apply");
    });
    test("remove finds it by its content, and leaves the node as it was", async () => {
      await switched();
      expect(await node.must("remove", "--dry-run")).toMatch(new RegExp(`iptables-${first}-restore`));
      expect(await node.must("remove")).toBe("the firewall is removed\n");
      expect([await oursIn(first), await oursIn(second)]).toEqual([0, 0]);
      expect(await node.ask(ALICE, "ask", ...AGENT)).toBe("other");
    });
    test("apply brings the rules in the one that is used, and takes the others away after that", async () => {
      await switched();
      await node.must("apply");
      expect([await oursIn(first), (await oursIn(second)) > 0]).toEqual([0, true]);
      expect((await node.iptables("status")).exitCode).toBe(0);
      expect([await node.ask(ALICE, "ask", ...METADATA), await node.ask(ALICE, "ask", ...AGENT)]).toEqual([
        "proxy",
        CLOSED,
      ]);
      await node.must("remove");
    });
    test("and back: the agent's entry, which it has written into the other one meanwhile, does not take users' connections", async () => {
      await use(first);
      await node.must("apply");
      await use(second);
      await node.must("apply");
      // The kernel asks the one first whose table was registered last.
      await node.shell(
        `iptables-${second} -t nat -A OUTPUT -d 169.254.169.254/32 -p tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081`,
      );
      await use(first);
      expect((await node.iptables("status")).stdout).toContain("the HyperPod agent's entry is there");
      await node.must("apply");
      expect((await node.iptables("status")).exitCode).toBe(0);
      expect(await node.ask(ALICE, "ask", ...METADATA)).toBe("proxy");
      await node.must("remove");
      await node.must("restore-original");
    });
    test("a watch that runs sees the switch, and follows it", async () => {
      await use(first);
      const watch = node.node.spawn({
        user: "root",
        argv: ["/run/bin/imdsproxy", "iptables", "watch"],
        timeoutMs: 0,
      });
      await eventually("the rules are there", async () => (await oursIn(first)) > 0);
      await use(second);
      await eventually(
        "the rules have moved",
        async () => (await oursIn(second)) > 0 && (await oursIn(first)) === 0,
      );
      expect(await node.ask(ALICE, "ask", ...AGENT)).toEqual(CLOSED);
      watch.kill("SIGTERM");
      await watch.done;
      await node.must("remove");
      expect([await oursIn(first), await oursIn(second)]).toEqual([0, 0]);
    });
  });
}

describeAsRoot("the agent's own entry, which a flush took with ours", () => {
  let node: FirewallNode;
  const entry = () => node.shell("iptables -t nat -S OUTPUT");
  const bringOnce = () => node.shell("/run/bin/imdsproxy iptables watch --once");
  beforeAll(async () => {
    node = await FirewallNode.start({ kind: "hyperpod" });
  });
  afterAll(() => node?.node.stop());

  const restoreIfSeen = () => node.must("restore-original", "--if-seen");
  test("does not come back where nobody has seen it", async () => {
    await node.shell("iptables -t nat -F OUTPUT");
    expect(await restoreIfSeen()).toContain("has not been seen");
    expect(await entry()).not.toContain("9081");
    await node.must("restore-original");
  });
  test("comes back with `service disable`, which asks for it so", async () => {
    await bringOnce();
    await node.shell("iptables -t nat -F");
    await node.must("remove");
    expect(await entry()).not.toContain("9081");
    await restoreIfSeen();
    expect(await entry()).toContain("--to-destination 169.254.0.2:9081");
    expect(await restoreIfSeen()).toContain("there already");
  });
  test("stays away where an operator has removed it on purpose", async () => {
    await node.must("remove-original");
    expect(await restoreIfSeen()).toContain("has not been seen");
    expect(await entry()).not.toContain("9081");
  });
});
