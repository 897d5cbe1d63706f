import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { resolve } from "node:path";
import type { SimulatedNode, Who } from "../../src/demo/node.ts";
import { attack, SHOW_PROGRAMS, victim } from "../attack/support/attack.ts";
import { mustExec } from "../support/node.ts";
import { startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

/**
 * The kernel's limit of new connections for each user, as docs/operations.md offers it: docs/imdsproxy-limits.nft.
 * The attack is one on the queue of connections that nobody has accepted yet, which has no places of each user's.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const SUBORDINATE = 300_000;
/** More than the queue has places. */
const AT_ONCE = 4_500;
const SDK_WAITS_MS = 1_000;
const LIMITS = "/run/limits/imdsproxy-limits.nft";

interface Flood {
  readonly connections: number;
  readonly refused: number;
}

describeAsRoot("a limit of new connections for each user", () => {
  let node: SimulatedNode;
  let tablesBefore = "";
  const nft = (...args: string[]) => mustExec(node, ROOT, ["nft", ...args]);

  /** How many connections found the queue full, since the namespace was made (netstat(8), TcpExt). */
  async function overflows(): Promise<number> {
    const [names = "", values = ""] = (await mustExec(node, ROOT, ["cat", "/proc/net/netstat"])).split("\n");
    return Number(values.split(" ")[names.split(" ").indexOf("ListenOverflows")]);
  }

  beforeAll(async () => {
    const proxied = await startProxiedNode({
      users: [
        { name: "alice", uid: 2001, subordinate: [SUBORDINATE, 65_536] },
        { name: "bob", uid: 2002 },
      ],
      show: { ...SHOW_PROGRAMS, "/run/limits": resolve(import.meta.dir, "../../docs") },
    });
    node = proxied.node;
    await mustExec(node, ROOT, ["sysctl", "-qw", "net.ipv4.ip_local_port_range=2048 65000"]);
    await victim(node, BOB, 1, 5);
    tablesBefore = await nft("list", "tables");
  });
  afterAll(() => node?.stop());

  test("is for an attack that fills the queue of connections", async () => {
    const before = await overflows();
    await attack<Flood>(node, ALICE, "flood", ["burst", 3, 2, AT_ONCE]);
    expect(await overflows()).toBeGreaterThan(before);
  });

  describe("in place", () => {
    beforeAll(() => nft("-f", LIMITS));

    const floods: readonly (readonly [name: string, who: Who, how: readonly (string | number)[]])[] = [
      ["a user", ALICE, []],
      ["a user by MPTCP sockets, which have no uid there", ALICE, ["mptcp"]],
      ["a user by a thousand subordinate uids", ROOT, [SUBORDINATE]],
    ];
    for (const [name, who, how] of floods) {
      test(`${name} fills it no more, and bob is served`, async () => {
        const before = await overflows();
        const flood = attack<Flood>(node, who, "flood", ["burst", 4, 2, AT_ONCE, ...how]);
        await Bun.sleep(300);
        const bob = await victim(node, BOB, 3, 10);
        const { connections, refused } = await flood;
        expect(connections + refused).toBeGreaterThan(10_000);
        expect((await overflows()) - before).toBe(0);
        expect(bob.failures).toEqual({});
        expect(bob.maxMs).toBeLessThan(SDK_WAITS_MS);
      }, 60_000);
    }

    test("root has none", async () => {
      const script = `import socket
for _ in range(5000): socket.create_connection(("169.254.169.254", 80), 1).close()`;
      await mustExec(node, ROOT, ["/usr/bin/python3", "-c", script], { timeoutMs: 60_000 });
    });

    test("the rules of imdsproxy are healthy beside it", async () => {
      await mustExec(node, ROOT, ["/run/bin/imdsproxy", "iptables", "status"]);
    });

    test("a second run replaces the first, and to delete its table leaves nothing", async () => {
      const text = await nft("list", "table", "inet", "imdsproxy_limits");
      await nft("-f", LIMITS);
      const rules = (listing: string) => listing.replaceAll(/\s*elements = \{[^}]*\}/g, "");
      expect(rules(await nft("list", "table", "inet", "imdsproxy_limits"))).toBe(rules(text));
      await nft("delete", "table", "inet", "imdsproxy_limits");
      expect(await nft("list", "tables")).toBe(tablesBefore);
    });
  });
});
