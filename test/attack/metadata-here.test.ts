import { afterAll, beforeAll, expect, test } from "bun:test";
import { mustExec } from "../support/node.ts";
import { applyRules, eventually, sdkArn, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

/**
 * A metadata service that is an address of the node itself, as a stand-in's is: what users send to it ends on this node even where
 * the redirect is gone. The watch does not run.
 */

const SECRET = "the-instance-roles-secret";
/** Answers everybody at port 80 of the given addresses. */
const STAND_IN = `
import socket, sys, threading
body = b"${SECRET}"
def serve(address):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in address: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, 80)); s.listen(512)
    while True:
        c, _ = s.accept()
        try:
            c.settimeout(2); c.recv(65536)
            c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % len(body) + body)
        except OSError: pass
        c.close()
for address in sys.argv[1:]: threading.Thread(target=serve, args=(address,)).start()
`;
/** Each way to it: destination, source and interface, each with each; by TCP, MPTCP, fast open. Prints those that lead there. */
const WAYS = `
import socket, threading
MPTCP, FASTOPEN = 262, 0x20000000
def one(to, source, device, kind):
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_STREAM, MPTCP if kind == "mptcp" else 0)
    try:
        s.settimeout(0.5)
        if device: s.setsockopt(socket.SOL_SOCKET, 25, device.encode())
        if source: s.bind((source, 0))
        if kind == "fast open":
            s.settimeout(None)
            for option in (20, 21): s.setsockopt(socket.SOL_SOCKET, option, (0).to_bytes(8, "little") + (500000).to_bytes(8, "little"))
            s.sendto(b"GET / HTTP/1.1\\r\\n\\r\\n", FASTOPEN, (to, 80))
        else:
            s.connect((to, 80)); s.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
        if b"${SECRET}" in s.recv(4096): print(to, source, device, kind, flush=True)
    except OSError: pass
    s.close()
threads = []
for to, sources in (("169.254.169.254", (None, "127.0.0.1", "10.77.0.2", "169.254.0.2", "169.254.169.254", "127.169.254.1")),
                    ("::ffff:169.254.169.254", (None,)), ("fd00:ec2::254", (None, "::1", "fd77::2", "fd00:ec2::254"))):
    for source in sources:
        for device in (None, "lo", "eth0"):
            for kind in ("tcp", "mptcp", "fast open"):
                threads.append(threading.Thread(target=one, args=(to, source, device, kind)))
for thread in threads: thread.start()
for thread in threads: thread.join()
`;
const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
const FLUSH = "for i in iptables ip6tables; do $i -F; $i -t nat -F; done";

describeAsRoot("a metadata service on this node", () => {
  let node: SimulatedNode;
  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-euc", line]);
  const ways = async (who: { readonly user: string }) => {
    const { stdout, stderr } = await node.exec({
      ...who,
      argv: ["/usr/bin/python3", "-c", WAYS],
      timeoutMs: 120_000,
    });
    expect(stderr).toBe("");
    return stdout.split("\n").filter((line) => line !== "");
  };
  /** Each way has half a second, which is little where a hundred of them are tried at once on a busy machine. */
  const manyWays = (who: { readonly user: string }) =>
    eventually("there are many ways", async () => (await ways(who)).length > 15);
  const listen = async (...addresses: string[]) => {
    await shell(
      "p=$(ss -Hltnp 'sport = 80' | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u); [ -z \"$p\" ] || kill -9 $p; while ss -Hltn 'sport = 80' | grep -q .; do :; done",
    );
    node.spawn({ ...ROOT, argv: ["/usr/bin/python3", "-c", STAND_IN, ...addresses], timeoutMs: 0 });
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
