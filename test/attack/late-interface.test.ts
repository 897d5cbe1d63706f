import { afterAll, beforeAll, expect, test } from "bun:test";
import { mustExec } from "../support/node.ts";
import { applyRules, eventually, sdkArn, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { SECRET, tellSecret, waysTo } from "./support/ways.ts";

/**
 * An interface on whose link the metadata service answers comes while nothing watches, as a second network interface of EC2's does,
 * and the iptables rules are flushed. No routing rule holds a socket that is bound to it: our own table of nf_tables does.
 */

const COMES = `
ip netns add far
ip link add late0 type veth peer name eth0 netns far
ip -n far link set lo up
ip -n far address add 169.254.169.254/16 dev eth0
ip -n far -6 address add fd00:ec2::254/64 dev eth0 nodad
ip -n far link set eth0 up
ip -n far route add default dev eth0
ip address add 10.99.0.1/24 dev late0
ip -6 address add fd99::1/64 dev late0 nodad
ip link set late0 up
while ip -6 address show tentative | grep -q .; do sleep 0.05; done
`;
/** Each way over the interface. */
const WAYS = [
  { to: ["169.254.169.254"], sources: [null, "10.99.0.1", "10.77.0.2", "169.254.0.2"] },
  { to: ["::ffff:169.254.169.254"], sources: [null] },
  { to: ["fd00:ec2::254"], sources: [null, "fd99::1"] },
].map((some) => ({ ...some, devices: ["late0"], kinds: ["tcp", "mptcp", "fast open"] as const }));
const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
/** What others do to the rules of iptables; all but a flush of nf_tables as a whole. */
const FLUSHES: Readonly<Record<string, string>> = {
  "iptables -F": "for i in iptables ip6tables; do $i -F; $i -t nat -F; done",
  "-F and -X in each table":
    "for i in iptables ip6tables; do for t in filter nat mangle raw; do $i -t $t -F; $i -t $t -X; done; done",
  "iptables-restore of an older file": "iptables-restore </run/before; ip6tables-restore </run/before6",
};

describeAsRoot("an interface that comes while nothing watches", () => {
  let node: SimulatedNode;
  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-euc", line]);
  /** @param seconds whoever is to get through waits longer than who is not. */
  const ways = (who: { readonly user: string }, seconds: number) => waysTo(node, who, 80, WAYS, { seconds });

  beforeAll(async () => {
    ({ node } = await startProxiedNode({ kind: "ec2" }, {}, (started) =>
      mustExec(started, ROOT, ["sh", "-euc", "iptables-save >/run/before; ip6tables-save >/run/before6"]),
    ));
    await shell(COMES);
    tellSecret(node, 80, ["169.254.169.254", "fd00:ec2::254"], ["ip", "netns", "exec", "far"]);
    await eventually(
      "the service listens",
      async () => (await shell("ip netns exec far ss -Hltn 'sport = 80'")).trim().split("\n").length === 2,
    );
  });
  afterAll(() => node?.stop());

  test("with the rules, nothing on its link is reached", async () => {
    expect(await ways(ALICE, 1)).toEqual([]);
  });
  for (const [name, flush] of Object.entries(FLUSHES)) {
    test(`${name}: nor is it then, by users; root reaches it`, async () => {
      await shell(flush);
      expect(await ways(ALICE, 1)).toEqual([]);
      expect((await ways(ROOT, 5)).length).toBeGreaterThan(5);
    });
  }
  test("a metadata address that became this node's own is held as well", async () => {
    await shell("ip address add 169.254.169.254/32 dev lo");
    tellSecret(node, 80, ["169.254.169.254"]);
    await eventually("it listens here", async () => (await shell("ss -Hltn 'sport = 80'")).includes(":80"));
    const curl = ["curl", "-s", "-m", "5", "http://169.254.169.254/"];
    expect((await node.exec({ ...ALICE, argv: curl })).stdout).toBe("");
    expect((await node.exec({ ...ROOT, argv: curl })).stdout).toBe(SECRET);
    await shell("ip address del 169.254.169.254/32 dev lo");
  });
  test("the rules, brought again, let users through to the proxy", async () => {
    await applyRules(node);
    expect(await sdkArn(node, ALICE)).toContain("ImdsProxyTestRole/alice@");
    expect(await ways(ALICE, 1)).toEqual([]);
  });
  test("without the walls alice has it in each way", async () => {
    await shell("imdsproxy iptables remove");
    expect((await ways(ALICE, 5)).length).toBeGreaterThan(5);
  });
});
