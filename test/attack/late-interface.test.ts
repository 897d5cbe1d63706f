import { afterAll, beforeAll, expect, test } from "bun:test";
import { mustExec } from "../support/node.ts";
import { applyRules, eventually, sdkArn, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

/**
 * An interface on whose link the metadata service answers comes while nothing watches, as a second network interface of EC2's does,
 * and the iptables rules are flushed. No routing rule holds a socket that is bound to it: our own table of nf_tables does.
 */

const SECRET = "the-instance-roles-secret";
const SERVICE = `
import socket, threading
body = b"${SECRET}"
def serve(address):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.bind((address, 80)); s.listen(512)
    while True:
        c, _ = s.accept()
        try:
            c.settimeout(2); c.recv(65536)
            c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % len(body) + body)
        except OSError: pass
        c.close()
for address in ("169.254.169.254", "fd00:ec2::254"): threading.Thread(target=serve, args=(address,)).start()
`;
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
/** Each way over the interface: source by source, by TCP, MPTCP and fast open. Prints those that lead there. */
const WAYS = `
import socket, sys, threading
FASTOPEN = 0x20000000
def one(to, source, kind, seconds):
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_STREAM, 262 if kind == "mptcp" else 0)
    try:
        s.settimeout(seconds)
        s.setsockopt(socket.SOL_SOCKET, 25, b"late0")
        if source: s.bind((source, 0))
        if kind == "fast open":
            s.settimeout(None)
            for option in (20, 21): s.setsockopt(socket.SOL_SOCKET, option, (seconds).to_bytes(8, "little") + (0).to_bytes(8, "little"))
            s.sendto(b"GET / HTTP/1.1\\r\\n\\r\\n", FASTOPEN, (to, 80))
        else:
            s.connect((to, 80)); s.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
        if b"${SECRET}" in s.recv(4096): print(to, source, kind, flush=True)
    except OSError: pass
    s.close()
threads = []
for to, sources in (("169.254.169.254", (None, "10.99.0.1", "10.77.0.2", "169.254.0.2")), ("::ffff:169.254.169.254", (None,)), ("fd00:ec2::254", (None, "fd99::1"))):
    for source in sources:
        for kind in ("tcp", "mptcp", "fast open"):
            threads.append(threading.Thread(target=one, args=(to, source, kind, int(sys.argv[1]))))
for thread in threads: thread.start()
for thread in threads: thread.join()
`;
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
  const ways = async (who: { readonly user: string }, seconds: number) => {
    const argv = ["/usr/bin/python3", "-c", WAYS, String(seconds)];
    const { stdout, stderr } = await node.exec({ ...who, argv, timeoutMs: 50_000 });
    expect(stderr).toBe("");
    return stdout.split("\n").filter((line) => line !== "");
  };

  beforeAll(async () => {
    ({ node } = await startProxiedNode({ kind: "ec2" }, {}, (started) =>
      mustExec(started, ROOT, ["sh", "-euc", "iptables-save >/run/before; ip6tables-save >/run/before6"]),
    ));
    await shell(COMES);
    node.spawn({
      ...ROOT,
      argv: ["ip", "netns", "exec", "far", "/usr/bin/python3", "-c", SERVICE],
      timeoutMs: 0,
    });
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
    node.spawn({
      ...ROOT,
      argv: ["/usr/bin/python3", "-c", SERVICE.replace(', "fd00:ec2::254"', ",")],
      timeoutMs: 0,
    });
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
