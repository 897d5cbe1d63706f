import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import type { Running } from "../../src/demo/run.ts";
import { ALICE, FirewallNode, METADATA, METADATA6, ROOT } from "../firewall/node-support.ts";
import { mustExec } from "../support/node.ts";
import { describeAsRoot } from "../support/root.ts";

/** A bridge with one container on it, as Docker makes them: forwarded, and masqueraded behind the node. */
const BRIDGE = `
mkdir -p /run/netns
ip netns add container
ip link add br0 type bridge
ip link add veth0 type veth peer name eth0 netns container
ip link set veth0 master br0
ip address add 172.30.0.1/24 dev br0
ip link set br0 up
ip link set veth0 up
ip -n container link set lo up
ip -n container address add 172.30.0.2/24 dev eth0
ip -n container link set eth0 up
ip -n container route add default via 172.30.0.1
echo 1 >/proc/sys/net/ipv4/ip_forward
iptables -t nat -A POSTROUTING -s 172.30.0.0/24 ! -o br0 -j MASQUERADE
`;
const BRIDGE6 = `
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
ip address add fd30::1/64 dev br0 nodad
ip -n container address add fd30::2/64 dev eth0 nodad
ip -n container route add default via inet6 fd30::1
ip6tables -t nat -A POSTROUTING -s fd30::/64 ! -o br0 -j MASQUERADE
`;

for (const backend of ["nft", "legacy"] as const) {
  describeAsRoot(`the firewall and bridged containers on iptables-${backend}`, () => {
    let node: FirewallNode;
    let listeners: Running[] = [];
    /** Root inside the container, which is nobody to the node. */
    const container = async (host: string, port: string) => {
      const argv = ["ip", "netns", "exec", "container", "/usr/bin/python3"];
      const probe = "/run/repository/test/firewall/probe.py";
      return (await mustExec(node.node, ROOT, [...argv, probe, "ask", host, port])).trim();
    };
    const apply = async (containers: string) => {
      node.node.write("/etc/imdsproxy/config.yaml", `containers: ${containers}\n`);
      await node.must("apply");
    };
    const listen = async (...all: readonly (readonly [string, string])[]) => {
      listeners = await node.listen(...all);
    };

    beforeAll(async () => {
      node = await FirewallNode.start({ kind: "ec2", iptables: backend });
      await node.shell(BRIDGE + (node.node.ipv6 ? BRIDGE6 : ""));
    });
    afterAll(() => node.node.stop());
    afterEach(async () => {
      await node.must("remove");
      for (const listener of listeners) {
        listener.kill("SIGKILL");
        await listener.done;
      }
      listeners = [];
    });

    test("leave: the container reaches the metadata service, as before", async () => {
      expect(await container(...METADATA)).toBe("other");
      await apply("leave");
      expect(await container(...METADATA)).toBe("other");
      expect(await node.ask(ALICE, "ask", ...METADATA)).toBe("ECONNREFUSED");
    });

    describe("reject", () => {
      test("the container is refused at both metadata addresses, and goes where else it likes", async () => {
        await apply("reject");
        expect(await container(...METADATA)).toBe("ECONNREFUSED");
        // IPv6 makes a route over lo one that refuses (ip6_route_info_create), before FORWARD could.
        if (node.node.ipv6) expect(await container(...METADATA6)).toBe("ENETUNREACH");
        // The STS stand-in's host: something else that is forwarded.
        expect(await container("10.77.0.1", "8080")).toMatch(/^(other|ECONNREFUSED)$/);
        expect(await node.ask(ROOT, "ask", ...METADATA)).toBe("other");
      });
      test("an upstream on the node itself is closed to it, also where somebody redirects it there", async () => {
        await node.shell("ip address add 169.254.0.2/32 dev lo");
        await listen(["169.254.0.2", "9081"]);
        const redirect =
          "PREROUTING -d 169.254.169.254 -p tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081";
        await node.shell(`iptables -t nat -A ${redirect}`);
        expect(await container(...METADATA)).toBe("proxy");
        await apply("reject");
        const redirected = await container(...METADATA);
        const direct = await container("169.254.0.2", "9081");
        await node.shell(`iptables -t nat -D ${redirect}; ip address del 169.254.0.2/32 dev lo`);
        // With br_netfilter the kernel sends the reset past NAT (nf_reject_ipv4.c, nf_send_reset), so it bears an address that
        // the container did not ask: closed in silence.
        expect(redirected).toMatch(/^E(CONNREFUSED|TIMEDOUT)$/);
        expect(direct).toBe("ECONNREFUSED");
      });
      test("the listener is closed to it", async () => {
        await apply("reject");
        node.node.write("/etc/imdsproxy/config.yaml", "containers: reject\nlisten: 172.30.0.1:254\n");
        await listen(["172.30.0.1", "254"]);
        expect(await container("172.30.0.1", "254")).toBe("proxy");
        await node.must("apply");
        expect(await container("172.30.0.1", "254")).toBe("ECONNREFUSED");
      });
    });

    describe("proxy", () => {
      test("the container is redirected to the proxy, and reaches its port in no other way", async () => {
        await listen(["0.0.0.0", "254"], ...(node.node.ipv6 ? ([["::", "254"]] as const) : []));
        await apply("proxy");
        expect(await container(...METADATA)).toBe("proxy");
        if (node.node.ipv6) {
          expect(await container(...METADATA6)).toBe("proxy");
          expect(await container("fd30::1", "254")).toBe("ECONNREFUSED");
        }
        for (const address of ["172.30.0.1", "10.77.0.2"]) {
          expect([address, await container(address, "254")]).toEqual([address, "ECONNREFUSED"]);
        }
        // Nor the agent, which is guarded also where nothing shows that there is one.
        expect(await container("169.254.0.2", "9081")).toBe("ECONNREFUSED");
      });
      test("users of the node go through the redirect, and by no other local address", async () => {
        await listen(["0.0.0.0", "254"], ...(node.node.ipv6 ? ([["::", "254"]] as const) : []));
        await apply("proxy");
        expect(await node.ask(ALICE, "ask", ...METADATA)).toBe("proxy");
        for (const address of ["127.0.0.1", "127.0.0.2", "10.77.0.2", "172.30.0.1", "0.0.0.0"]) {
          expect([address, await node.ask(ALICE, "ask", address, "254")]).toEqual([address, "ECONNREFUSED"]);
        }
        if (node.node.ipv6) {
          for (const address of ["::1", "fd77::2", "fd30::1"]) {
            expect([address, await node.ask(ALICE, "ask", address, "254")]).toEqual([
              address,
              "ECONNREFUSED",
            ]);
          }
        }
      });
      test("the container reaches nothing while the redirect is away", async () => {
        await listen(["0.0.0.0", "254"]);
        await apply("proxy");
        await node.must("remove-proxy");
        expect(await container(...METADATA)).toBe("ECONNREFUSED");
      });
    });
  });
}
