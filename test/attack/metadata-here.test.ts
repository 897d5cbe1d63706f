import { afterAll, beforeAll, expect, test } from "bun:test";
import { mustExec } from "../support/node.ts";
import { applyRules, eventually, sdkArn, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { tellSecret, waysTo } from "./support/ways.ts";

/**
 * A metadata service that is an address of the node itself, as a stand-in's is: what users send to it ends on this node even where
 * the redirect is gone. The watch does not run.
 */

/** Each way to it. */
const WAYS = [
  {
    to: ["169.254.169.254"],
    sources: [null, "127.0.0.1", "10.77.0.2", "169.254.0.2", "169.254.169.254", "127.169.254.1"],
  },
  { to: ["::ffff:169.254.169.254"], sources: [null] },
  { to: ["fd00:ec2::254"], sources: [null, "::1", "fd77::2", "fd00:ec2::254"] },
].map((some) => ({
  ...some,
  devices: [null, "lo", "eth0"],
  kinds: ["tcp", "mptcp", "fast open"] as const,
}));
const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
const FLUSH = "for i in iptables ip6tables; do $i -F; $i -t nat -F; done";

describeAsRoot("a metadata service on this node", () => {
  let node: SimulatedNode;
  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-euc", line]);
  const ways = (who: { readonly user: string }) => waysTo(node, who, 80, WAYS, { seconds: 0.5 });
  /** Each way has half a second, which is little where a hundred of them are tried at once on a busy machine. */
  const manyWays = (who: { readonly user: string }) =>
    eventually("there are many ways", async () => (await ways(who)).length > 15);
  const listen = async (...addresses: string[]) => {
    await shell(
      "p=$(ss -Hltnp 'sport = 80' | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u); [ -z \"$p\" ] || kill -9 $p; while ss -Hltn 'sport = 80' | grep -q .; do :; done",
    );
    tellSecret(node, 80, addresses);
    await eventually(
      "it listens",
      async () =>
        (await shell("ss -Hltn 'sport = 80'")).trim().split("\n").filter(Boolean).length === addresses.length,
    );
  };

  beforeAll(async () => {
    ({ node } = await startProxiedNode({}, {}, (started) =>
      mustExec(started, ROOT, [
        "sh",
        "-euc",
        "ip address add 169.254.169.254/32 dev lo; ip address add fd00:ec2::254/128 dev lo nodad; echo 3 >/proc/sys/net/ipv4/tcp_fastopen",
      ]),
    ));
    await listen("169.254.169.254", "fd00:ec2::254");
  });
  afterAll(() => node?.stop());

  test("without the walls, alice has it in many ways", async () => {
    await shell(`imdsproxy iptables remove; ${FLUSH}`);
    await manyWays(ALICE);
  });
  test("with the rules she has it in none, and is served by the proxy", async () => {
    await applyRules(node);
    expect(await ways(ALICE)).toEqual([]);
    expect(await sdkArn(node, ALICE)).toContain("ImdsProxyTestRole/alice@");
  });
  for (const forwarding of [0, 1]) {
    test(`while the firewall's rules are flushed, she has it in none either, and root has (forwarding ${forwarding})`, async () => {
      await shell(
        `echo ${forwarding} >/proc/sys/net/ipv4/ip_forward; echo ${forwarding} >/proc/sys/net/ipv6/conf/all/forwarding`,
      );
      await applyRules(node);
      await shell(FLUSH);
      expect(await ways(ALICE)).toEqual([]);
      await manyWays(ROOT);
      await applyRules(node);
    });
  }
  test("one that listens on every address is closed too", async () => {
    await listen("0.0.0.0", "::");
    await shell(FLUSH);
    expect(await ways(ALICE)).toEqual([]);
    await shell("imdsproxy iptables remove");
    await manyWays(ALICE);
  });
});
