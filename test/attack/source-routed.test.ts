import { afterAll, beforeAll, expect, test } from "bun:test";
import { ADDRESSES } from "../../src/demo/network.ts";
import { mustExec } from "../support/node.ts";
import { startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { attack, SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * A packet with a routing header or a source route has another destination than the one that it ends at: rules by address
 * see the first. A node that is set to forward such packets takes its own users' to the metadata service.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const { aws6, node4, node6, imds4, imds6 } = ADDRESSES;

describeAsRoot("packets by way of another address:", () => {
  let node: SimulatedNode;
  const reach = (who: Who, kind: string, via: string, to: string, port = 80) =>
    attack<string>(node, who, "source_routed", [kind, via, to, port]);
  /** How many packets a chain of our table has taken from users; the rule that drops has no counter of its own. */
  const withCounter = (script: string) => mustExec(node, ROOT, ["sh", "-euc", script]);

  beforeAll(async () => {
    const proxied = await startProxiedNode({ show: SHOW_PROGRAMS });
    node = proxied.node;
    await withCounter(`
      sysctl -qw net.ipv6.conf.all.seg6_enabled=1 net.ipv6.conf.lo.seg6_enabled=1 net.ipv6.conf.eth0.seg6_enabled=1
      sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1
      sysctl -qw net.ipv4.conf.all.accept_source_route=1 net.ipv4.conf.lo.accept_source_route=1
      sysctl -qw net.ipv4.conf.eth0.accept_source_route=1
      nft add table inet seen
      nft 'add chain inet seen out { type filter hook output priority 300; }'
      nft 'add rule inet seen out exthdr rt exists counter'
      nft 'add rule inet seen out ip option lsrr exists counter'
      nft 'add rule inet seen out ip option ssrr exists counter'
    `);
  });
  afterAll(() => node?.stop());

  /** Packets with a route of their own that have left, by kind, as the last hook of the output sees them. */
  async function left(): Promise<number[]> {
    const listing = await mustExec(node, ROOT, ["nft", "list", "chain", "inet", "seen", "out"]);
    return [...listing.matchAll(/packets (\d+)/g)].map(([, packets]) => Number(packets));
  }

  test("alice's are refused, IPv6 and IPv4, streams and datagrams", async () => {
    expect(await left()).toEqual([0, 0, 0]);
    const said = [await reach(ALICE, "lsrr", node4, imds4), await reach(ALICE, "ssrr", node4, imds4)];
    if (node.ipv6) {
      for (const via of ["::1", node6, aws6]) said.push(await reach(ALICE, "rthdr", via, imds6));
      said.push(await reach(ALICE, "rthdr-udp", node6, imds6, 9));
    }
    console.log("alice", JSON.stringify(said));
    expect(said.filter((one) => one.startsWith("HTTP/") || one === "sent")).toEqual([]);
    expect(await left()).toEqual([0, 0, 0]);
  }, 180_000);

  test("which root may send, so that it is our rule that alice meets", async () => {
    if (node.ipv6) expect(await reach(ROOT, "rthdr-udp", node6, imds6, 9)).toBe("sent");
    await reach(ROOT, "lsrr", node4, imds4);
    await reach(ROOT, "ssrr", node4, imds4);
    const seen = await left();
    expect(seen.map((packets) => packets > 0)).toEqual([node.ipv6, true, true]);
  }, 180_000);

  test("and without our rule alice's leave the node", async () => {
    await withCounter("nft delete table inet imdsproxy_limits");
    const before = await left();
    // IPv4's options this kernel gives to nobody without CAP_NET_RAW; older ones do, and there it is the rule alone.
    if (node.ipv6) {
      expect(await reach(ALICE, "rthdr-udp", node6, imds6, 9)).toBe("sent");
      expect((await left())[0]).toBeGreaterThan(before[0] ?? 0);
    }
  }, 180_000);
});
