import { afterAll, beforeAll, expect, test } from "bun:test";
import type { SimulatedNode } from "../../src/demo/node.ts";
import { mustExec } from "../support/node.ts";
import { applyRules, eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

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

  /** Where the user gets the secret. */
  const open = async (who: { readonly user: string }) => {
    const found = await Promise.all(
      addresses.map(async (address) => {
        const url = `http://${address}:9081/`;
        const { stdout } = await node.exec({ ...who, argv: ["curl", "-sS", "-g", "-m", "2", url] });
        return stdout.includes(SECRET) ? address : null;
      }),
    );
    return found.filter((address) => address !== null);
  };
  const checkDirect = () => node.exec({ ...ROOT, argv: ["imdsproxy", "iptables", "check-direct", "--json"] });

  test("is closed to users at each of them, and to root at none; check-direct tries them all", async () => {
    expect(addresses.length).toBeGreaterThan(5);
    await applyRules(node);
    expect(await open(ALICE)).toEqual([]);
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
    expect(await open(ALICE)).toEqual([]);
    expect((await open(ROOT)).sort()).toEqual([...addresses].sort());
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
