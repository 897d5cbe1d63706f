import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { BRIDGE } from "../support/bridge.ts";
import { mustExec } from "../support/node.ts";
import {
  applyRules,
  assumed,
  eventually,
  type ProxiedNode,
  startProxiedNode,
  TOKEN_HEADER,
  TTL_HEADER,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;

/** What `who` gets at the metadata address, or at another: the role list, or why there is none. */
const ROLE_LIST = (base: string) => `
T=$(curl -s -m 20 -X PUT ${base}/latest/api/token -H '${TTL_HEADER}: 60') || { echo "curl $?"; exit 0; }
curl -s -m 20 -H "${TOKEN_HEADER}: $T" ${base}/latest/meta-data/iam/security-credentials/ || echo "curl $?"
`;
const inContainer = (node: SimulatedNode, base = "http://169.254.169.254"): Promise<string> =>
  mustExec(node, ROOT, ["ip", "netns", "exec", "box", "sh", "-c", ROLE_LIST(base)]);

async function nodeWith(
  containers: "leave" | "reject" | "proxy",
  kind: "ec2" | "hyperpod" = "ec2",
): Promise<ProxiedNode> {
  return startProxiedNode({ kind }, { containers }, (node) => mustExec(node, ROOT, ["sh", "-c", BRIDGE]));
}

describeAsRoot("containers on a bridge", () => {
  describe("leave", () => {
    let proxied: ProxiedNode;
    beforeAll(async () => {
      proxied = await nodeWith("leave");
    });
    afterAll(() => proxied?.node.stop());

    test("reach the node's own service, as without us", async () => {
      expect(await inContainer(proxied.node)).toBe(proxied.node.roleName);
    });
  });

  for (const kind of ["ec2", "hyperpod"] as const) {
    describe(`reject, on a node of kind ${kind}`, () => {
      let proxied: ProxiedNode;
      beforeAll(async () => {
        proxied = await nodeWith("reject", kind);
      });
      afterAll(() => proxied?.node.stop());

      test("are refused at the metadata address", async () => {
        expect((await inContainer(proxied.node)).trim()).toBe("curl 7");
      });
      test("are refused at the agent's address and at the proxy's", async () => {
        for (const base of ["http://169.254.0.2:9081", "http://172.17.0.1:9081", "http://172.17.0.1:254"]) {
          expect((await inContainer(proxied.node, base)).trim()).toBe("curl 7");
        }
      });
      test("and the node's own users are not hindered", async () => {
        const answer = await mustExec(proxied.node, ALICE, ["sh", "-c", ROLE_LIST("http://169.254.169.254")]);
        expect(answer).toBe("ImdsProxyTestRole");
      });
    });

    describe(`proxy, on a node of kind ${kind}`, () => {
      let proxied: ProxiedNode;
      beforeAll(async () => {
        proxied = await nodeWith("proxy", kind);
      });
      afterAll(() => proxied?.node.stop());

      test("get the default role, in a session that names their address", async () => {
        const { node } = proxied;
        expect(await inContainer(node)).toBe("ImdsProxyTestRole");
        // Asked for beside the answer, so that it is there when the credentials are asked for.
        const name = "container=172.17.0.2@i-0123456789abcdef0";
        await eventually(`a session of the name ${name}`, async () => (await assumed(node)).includes(name));
      });
      test("get nothing of the instance role by its name", async () => {
        const { node } = proxied;
        const script = `
          T=$(curl -s -X PUT http://169.254.169.254/latest/api/token -H '${TTL_HEADER}: 60')
          curl -s -o /dev/null -w '%{http_code}' -H "${TOKEN_HEADER}: $T" \
            http://169.254.169.254/latest/meta-data/iam/security-credentials/${node.roleName}`;
        expect(await mustExec(node, ROOT, ["ip", "netns", "exec", "box", "sh", "-c", script])).toBe("404");
      });
      test("a container's token is nothing in alice's hands", async () => {
        const { node } = proxied;
        const token = await mustExec(node, ROOT, [
          "ip",
          "netns",
          "exec",
          "box",
          "curl",
          "-s",
          "-X",
          "PUT",
          "-H",
          `${TTL_HEADER}: 60`,
          "http://169.254.169.254/latest/api/token",
        ]);
        const status = await mustExec(node, ALICE, [
          "curl",
          "-s",
          "-o",
          "/dev/null",
          "-w",
          "%{http_code}",
          "-H",
          `${TOKEN_HEADER}: ${token}`,
          "http://169.254.169.254/latest/meta-data/instance-id",
        ]);
        expect(status).toBe("401");
      });
      test("are refused at the agent's address, and at the proxy's own port when not redirected", async () => {
        for (const base of ["http://169.254.0.2:9081", "http://172.17.0.1:9081", "http://172.17.0.1:254"]) {
          expect((await inContainer(proxied.node, base)).trim()).toBe("curl 7");
        }
      });
      test("alice cannot pass for one: the port on the bridge's address is closed to her", async () => {
        const answer = await mustExec(proxied.node, ALICE, ["sh", "-c", ROLE_LIST("http://172.17.0.1:254")]);
        expect(answer.trim()).toBe("curl 7");
      });
      test("alice cannot pass for one by its address as her source", async () => {
        const script = `
import socket
s = socket.socket()
s.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
s.bind(("172.17.0.77", 0))
s.settimeout(3)
try:
    s.connect(("169.254.169.254", 80))
    print("connected")
except OSError as error:
    print("refused")
`;
        expect((await mustExec(proxied.node, ALICE, ["/usr/bin/python3", "-c", script])).trim()).toBe(
          "refused",
        );
      });
      test("a connection from outside that is routed through the node is no container", async () => {
        // From the other end of the cable, which is in no bridge's network: a neighbour with a route through us.
        const { node } = proxied;
        const script = `
set -eu
ip netns add neighbour
ip link add out0 type veth peer name eth0 netns neighbour
ip address add 10.99.0.1/24 dev out0
ip link set out0 up
ip -n neighbour link set lo up
ip -n neighbour address add 10.99.0.2/24 dev eth0
ip -n neighbour link set eth0 up
ip -n neighbour route add default via 10.99.0.1
ip netns exec neighbour curl -s -m 20 -o /dev/null -w '%{http_code}' -X PUT -H '${TTL_HEADER}: 60' \
  http://169.254.169.254/latest/api/token`;
        expect(await mustExec(node, ROOT, ["sh", "-c", script])).toBe("403");
      });
      test("and the node's own users are not hindered", async () => {
        const answer = await mustExec(proxied.node, ALICE, ["sh", "-c", ROLE_LIST("http://169.254.169.254")]);
        expect(answer).toBe("ImdsProxyTestRole");
      });
      test("the rules are whole after a second apply", async () => {
        await applyRules(proxied.node);
        expect(await inContainer(proxied.node)).toBe("ImdsProxyTestRole");
      });
    });
  }
});
