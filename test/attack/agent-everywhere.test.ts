import { afterAll, beforeAll, expect, test } from "bun:test";
import { mustExec } from "../support/node.ts";
import { applyRules, eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

/** What the agent here answers to everybody. */
const SECRET = "the-instance-roles-secret";
/** An agent that listens on every address of the node, of both families. */
const AGENT = `
import socket
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind(("::", 9081)); s.listen(128)
body = b"${SECRET}"
while True:
    c, _ = s.accept()
    try:
        c.settimeout(2); c.recv(65536)
        c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % len(body) + body)
    except OSError: pass
    c.close()
`;
/** Every way to an address of the node by IPv6: destination, source and interface, each with each. Prints those that lead there. */
const WAYS = `
import socket, sys
index = socket.if_nametoindex("eth0")
link_local = sys.argv[1]
places = [("::1", 0), ("fd77::2", 0), (link_local, index), (link_local, socket.if_nametoindex("lo"))]
for to, scope in places:
    for source in (None, ("fd77::2", 0), ("::1", 0), (link_local, index)):
        for device in (None, b"lo", b"eth0"):
            s = socket.socket(socket.AF_INET6); s.settimeout(1)
            try:
                if device: s.setsockopt(socket.SOL_SOCKET, 25, device)
                if source: s.bind((source[0], 0, 0, source[1]))
                s.connect((to, 9081, 0, scope)); s.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
                if b"${SECRET}" in s.recv(4096): print(to, scope, source, device)
            except OSError: pass
            s.close()
`;
const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;

describeAsRoot("an agent that listens on every address", () => {
  let node: SimulatedNode;
  let addresses: string[] = [];

  beforeAll(async () => {
    ({ node } = await startProxiedNode());
    await mustExec(node, ROOT, [
      "sh",
      "-euc",
      "kill -9 $(ss -Hltnp 'sport = 9081' | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u); while ss -Hltn 'sport = 9081' | grep -q .; do :; done",
    ]);
    node.spawn({ ...ROOT, argv: ["/usr/bin/python3", "-c", AGENT], timeoutMs: 0 });
    await eventually("the agent listens", async () =>
      (await mustExec(node, ROOT, ["ss", "-Hltn", "sport = 9081"])).includes("9081"),
    );
    // A link-local address is looked for on the link first (DAD), for a second or so.
    await eventually(
      "every address can be used",
      async () => (await mustExec(node, ROOT, ["ip", "-6", "address", "show", "tentative"])).trim() === "",
    );
    const listed = await mustExec(node, ROOT, ["sh", "-c", "ip -o address | awk '{ print $2, $4 }'"]);
    addresses = [
      "127.0.0.2",
      "[::ffff:127.0.0.1]",
      ...listed
        .trim()
        .split("\n")
        .map((line) => line.split(" "))
        .map(([device = "", cidr = ""]) => {
          const address = cidr.replace(/\/.*/, "");
          if (!address.includes(":")) return address;
          return `[${address}${address.startsWith("fe80") ? `%25${device}` : ""}]`;
        }),
    ];
  });
  afterAll(() => node?.stop());

  /** Where the user gets the secret: by a plain socket, or by one that is bound to an interface (SO_BINDTODEVICE) too. */
  const open = async (who: { readonly user: string }, devices: readonly string[] = []) => {
    const found = await Promise.all(
      addresses.flatMap((address) =>
        [[], ...devices.map((device) => ["--interface", `if!${device}`])].map(async (how) => {
          const url = `http://${address}:9081/`;
          const argv = ["curl", "-sS", "-g", "-m", "10", ...how, url];
          const { stdout } = await node.exec({ ...who, argv });
          return stdout.includes(SECRET) ? [address, ...how].join(" ") : null;
        }),
      ),
    );
    return found.filter((address) => address !== null);
  };
  const DEVICES = ["lo", "eth0"];
  const ways = async (who: { readonly user: string }) => {
    const linkLocal = /fe80[0-9a-f:]+/.exec(addresses.join(" "))?.[0] ?? "::1";
    const argv = ["/usr/bin/python3", "-c", WAYS, linkLocal];
    const { stdout, stderr } = await node.exec({ ...who, argv, timeoutMs: 50_000 });
    expect(stderr).toBe("");
    return stdout.split("\n").filter((line) => line !== "");
  };
  const checkDirect = () => node.exec({ ...ROOT, argv: ["imdsproxy", "iptables", "check-direct", "--json"] });

  test("is closed to users at each of them, and to root at none; check-direct tries them all", async () => {
    expect(addresses.length).toBeGreaterThan(5);
    await applyRules(node);
    expect(await open(ALICE, DEVICES)).toEqual([]);
    expect((await open(ROOT)).sort()).toEqual([...addresses].sort());
    const { exitCode, stdout } = await checkDirect();
    // It fails where access is closed.
    expect([exitCode, JSON.parse(stdout).closed]).toEqual([1, true]);
  });
  test("also while the firewall's rules are flushed", async () => {
    await mustExec(node, ROOT, [
      "sh",
      "-euc",
      "iptables -F; iptables -t nat -F; ip6tables -F; ip6tables -t nat -F",
    ]);
    expect(await open(ALICE, DEVICES)).toEqual([]);
    expect((await open(ROOT)).sort()).toEqual([...addresses].sort());
    expect((await ways(ROOT)).length).toBeGreaterThan(10);
    expect(await ways(ALICE)).toEqual([]);
    await applyRules(node);
  });
  test("status says how it is bound", async () => {
    const { stdout } = await node.exec({ ...ROOT, argv: ["imdsproxy", "iptables", "status"] });
    expect(stdout).toContain("which is every address of this node: closed to users on each of them");
  });
  test("without the rules it is open to alice at each address, and check-direct finds it so", async () => {
    await mustExec(node, ROOT, ["imdsproxy", "iptables", "remove"]);
    expect((await open(ALICE)).sort()).toEqual([...addresses].sort());
    const { exitCode, stdout } = await checkDirect();
    const found = JSON.parse(stdout) as { closed: boolean; attempts: { result: string; detail: string }[] };
    expect([exitCode, found.closed]).toEqual([0, false]);
    const openAt = found.attempts.filter(({ result }) => result === "open").map(({ detail }) => detail);
    for (const address of ["127.0.0.1:9081", "169.254.0.2:9081", "[::1]:9081"])
      expect(openAt.join("\n")).toContain(address);
  });
});
