import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { DROP_KINDS } from "../../src/firewall/limits/table.ts";
import { attack, type Flood, flood, SHOW_PROGRAMS, victim, whileStopped } from "../attack/support/attack.ts";
import { mustExec } from "../support/node.ts";
import {
  applyRules,
  eventually,
  type ProxiedNode,
  startProxiedNode,
  testConfig,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";

/**
 * The kernel's limit of new connections for each user, which `apply` brings with the rules. The attack is one on the queue of
 * connections that nobody has accepted yet, which has no places of each user's.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const SUBORDINATE = 300_000;
/** More than the queue has places. */
const AT_ONCE = 4_500;
/** How long one flood lasts, in seconds. */
const FLOOD_S = 6;
/** So few that one flood does not fill the queue even where the proxy accepts nothing meanwhile, and more than bob's. */
const RATE = { perSecond: 500, burst: 1_000 };
/** Connections that show that an attack took place. */
const ATTACK = 10_000;
/** How often it is made where a SYN was sent again: a kernel that has no processor for a second answers late, and drops nothing. */
const TRIES = 3;
const TABLE = ["table", "inet", "imdsproxy_limits"];

/** Where the metrics are. */
const METRICS = "127.0.0.1:9254";
/** Begins 40 connections at the same moment and gives them up. */
const BEGIN = `
import socket
for _ in range(40):
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("169.254.169.254", 80))
    one.close()`;

describeAsRoot("a limit of new connections for each user", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  const nft = (...args: string[]) => mustExec(node, ROOT, ["nft", ...args]);
  const imdsproxy = (...args: string[]) => mustExec(node, ROOT, ["/run/bin/imdsproxy", "iptables", ...args]);
  const configure = async (newConnectionsPerUser: typeof RATE | null) => {
    const config = testConfig(node, { limits: { newConnectionsPerUser, trackedConnectionsPerUser: null } });
    node.write("/etc/imdsproxy/config.yaml", JSON.stringify(config));
    await applyRules(node);
  };

  /** How many connections found the queue full, since the namespace was made (netstat(8), TcpExt). */
  async function overflows(): Promise<number> {
    const [names = "", values = ""] = (await mustExec(node, ROOT, ["cat", "/proc/net/netstat"])).split("\n");
    return Number(values.split(" ")[names.split(" ").indexOf("ListenOverflows")]);
  }

  beforeAll(async () => {
    proxied = await startProxiedNode(
      {
        users: [
          { name: "alice", uid: 2001, subordinate: [SUBORDINATE, 65_536] },
          { name: "bob", uid: 2002 },
        ],
        show: SHOW_PROGRAMS,
      },
      { metrics: { listen: METRICS } },
    );
    node = proxied.node;
    await mustExec(node, ROOT, ["sysctl", "-qw", "net.ipv4.ip_local_port_range=2048 65000"]);
    await victim(node, BOB, 1, 5);
  });
  afterAll(() => node?.stop());

  describe("that is switched off", () => {
    beforeAll(() => configure(null));

    test("is missed in an attack that fills the queue of connections", async () => {
      const before = await overflows();
      // The proxy waits meanwhile, and the attack goes on: on a busy machine the attacker may be no faster than it is.
      await whileStopped(proxied.proxy.pid, () =>
        eventually("the queue was full", async () => {
          await flood(node, ALICE, "burst", 2, 2, [AT_ONCE], { connections: 2 * AT_ONCE });
          return (await overflows()) > before;
        }),
      );
    }, 240_000);
  });

  describe("in place", () => {
    beforeAll(() => configure(RATE));

    const floods: readonly (readonly [name: string, who: Who, how: readonly (string | number)[]])[] = [
      ["a user", ALICE, []],
      ["a user by MPTCP sockets", ALICE, ["mptcp"]],
      ["a user by a thousand subordinate uids", ROOT, [SUBORDINATE]],
    ];
    for (const [name, who, how] of floods) {
      test(`${name} fills it no more, and bob is served`, async () => {
        const before = await overflows();
        let leastResent = Number.POSITIVE_INFINITY;
        // One flood is enough, but for a machine on which it does not come to so many connections.
        for (let made = 0, floods = 0; made <= ATTACK || (leastResent > 0 && floods < TRIES); floods++) {
          const flooding = attack<Flood>(node, who, "flood", ["burst", FLOOD_S, 2, AT_ONCE, ...how]);
          await Bun.sleep(300);
          const bob = await victim(node, BOB, 3, 10);
          const { connections, refused } = await flooding;
          made += connections + refused;
          expect((await overflows()) - before).toBe(0);
          expect(bob.failures).toEqual({});
          leastResent = Math.min(leastResent, bob.resent);
        }
        // Not a SYN of bob's is dropped, which would cost him a second: longer than an SDK waits.
        expect(leastResent).toBe(0);
      }, 400_000);
    }

    test("root has none", async () => {
      // How often a SYN was sent again, as in programs/victim.py: each time one was dropped.
      const script = `
import socket, struct
resent = 0
for _ in range(5000):
    with socket.create_connection(("169.254.169.254", 80), 30) as s:
        resent += struct.unpack_from("I", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]
print(resent)`;
      const endMs = performance.now() + 60_000;
      let leastResent = Number.POSITIVE_INFINITY;
      for (let tries = 0; tries < TRIES && leastResent > 0; ) {
        const before = await overflows();
        const resent = await mustExec(node, ROOT, ["/usr/bin/python3", "-c", script], { timeoutMs: 200_000 });
        // The agent's queue has 512 places. Where it was full, the kernel dropped a SYN for that reason, which says nothing.
        if ((await overflows()) !== before && performance.now() < endMs) continue;
        tries++;
        leastResent = Math.min(leastResent, Number(resent));
      }
      expect(leastResent).toBe(0);
    }, 400_000);

    test("status says what is right, what is missing and what is another's, and apply puts it right", async () => {
      const status = async () => {
        const { exitCode, stdout } = await node.exec({
          ...ROOT,
          argv: ["/run/bin/imdsproxy", "iptables", "status", "--json"],
        });
        return [exitCode, JSON.parse(stdout).limits.problems];
      };
      const listing = async () =>
        (await nft("list", ...TABLE))
          .replaceAll(/^\s*elements = \{[^}]*limit[^}]*\}\n/gm, "")
          // A table that is made anew begins to count anew.
          .replaceAll(/packets \d+ bytes \d+/g, "packets 0 bytes 0");
      const right = await listing();
      expect(await status()).toEqual([0, []]);
      const changes = [
        ["nft delete table inet imdsproxy_limits", "is missing"],
        ["nft flush chain inet imdsproxy_limits early", "is not as it should be"],
        ["nft add element inet imdsproxy_limits exempt { 2001 }", "is not as it should be"],
        ["nft insert rule inet imdsproxy_limits new_connection accept", "is not as it should be"],
        ["nft flush map inet imdsproxy_limits new_subordinate", "is not as it should be"],
      ] as const;
      for (const [change, what] of changes) {
        await mustExec(node, ROOT, ["sh", "-c", change]);
        expect([change, ...(await status())]).toEqual([change, 1, [expect.stringContaining(what)]]);
        expect([change, await imdsproxy("apply")]).toEqual([change, expect.stringContaining("in place")]);
        expect([change, ...(await status())]).toEqual([change, 0, []]);
        expect(await listing()).toBe(right);
        expect(await imdsproxy("apply")).toContain("nothing to do");
      }
    }, 400_000);

    test("a dry run shows what nft takes, and changes nothing", async () => {
      await nft("delete", ...TABLE);
      const shown = await imdsproxy("apply", "--dry-run");
      expect((await node.exec({ ...ROOT, argv: ["nft", "list", ...TABLE] })).exitCode).not.toBe(0);
      const text = shown.slice(shown.indexOf("# nft -f -"));
      await mustExec(node, ROOT, ["nft", "-f", "-"], { stdin: text });
      const byNft = await nft("list", ...TABLE);
      await imdsproxy("apply");
      const byUs = (await nft("list", ...TABLE)).replaceAll(/ comment "imdsproxy [0-9a-f]{12}"/g, "");
      const uncounted = (text: string) => text.replaceAll(/packets \d+ bytes \d+/g, "packets 0 bytes 0");
      expect(uncounted(byUs)).toBe(uncounted(byNft));
      expect(await imdsproxy("remove", "--dry-run")).toContain("# nft delete table inet imdsproxy_limits");
      expect(await imdsproxy("list")).toContain("nft list table inet imdsproxy_limits");
    });

    test("all of nft's own rules can be written to a file and read again with it", async () => {
      const script = `nft list ${TABLE.join(" ")} >/run/saved && nft delete ${TABLE.join(" ")} && nft -f /run/saved`;
      await mustExec(node, ROOT, ["sh", "-euc", script]);
      await imdsproxy("apply");
    });

    test("the watch puts it back at once after a flush of everything", async () => {
      const watch = node.spawn({ ...ROOT, argv: ["/run/bin/imdsproxy", "iptables", "watch"], timeoutMs: 0 });
      try {
        const there = async () =>
          (await node.exec({ ...ROOT, argv: ["nft", "list", ...TABLE] })).exitCode === 0;
        await nft("flush", "ruleset");
        await eventually("the table is back", there);
        await eventually("and status says so", async () => {
          const argv = ["/run/bin/imdsproxy", "iptables", "status"];
          return (await node.exec({ ...ROOT, argv })).exitCode === 0;
        });
      } finally {
        watch.kill("SIGTERM");
        await watch.done;
      }
    });

    test("what is dropped is counted by limit: in the metrics, in status and in iptables status, as nft has it", async () => {
      // One connection a second: the others are dropped.
      await configure({ perSecond: 1, burst: 1 });
      const json = async (...argv: string[]) => JSON.parse((await node.exec({ ...ROOT, argv })).stdout);
      const nobody = Object.fromEntries(DROP_KINDS.map((kind) => [kind, 0]));
      expect((await json("imdsproxy", "iptables", "status", "--json")).limits.dropped).toEqual(nobody);
      await eventually("some of alice's connections are dropped", async () => {
        await mustExec(node, ALICE, ["/usr/bin/python3", "-c", BEGIN]);
        return (await json("imdsproxy", "iptables", "status", "--json")).limits.dropped.new_user > 0;
      });
      const listed = await nft("-j", "list", "counters", "table", "inet", "imdsproxy_limits");
      const { nftables } = JSON.parse(listed) as {
        nftables: { counter?: { name: string; packets: number } }[];
      };
      const counters = Object.fromEntries(
        nftables.flatMap(({ counter }) => (counter ? [[counter.name, counter.packets]] : [])),
      );
      expect(Object.keys(counters).sort()).toEqual([...DROP_KINDS].sort());
      expect((await json("imdsproxy", "iptables", "status", "--json")).limits.dropped).toEqual(counters);
      expect((await json("imdsproxy", "status", "--json")).dropped).toEqual(counters);
      expect((await node.exec({ ...ROOT, argv: ["imdsproxy", "status"] })).stdout).toContain(
        `packets dropped since the rules came: new connections of one user ${counters["new_user"]}`,
      );
      // A text of the metrics is kept for a second.
      await eventually("the metrics have the same", async () => {
        const text = await mustExec(node, ROOT, ["curl", "-sS", `http://${METRICS}/metrics`]);
        const found = text.matchAll(/^imdsproxy_limit_dropped_packets_total\{limit="(\w+)"\} (\d+)$/gm);
        const metrics = Object.fromEntries([...found].map(([, kind, count]) => [kind, Number(count)]));
        return Bun.deepEquals(metrics, counters);
      });
      await configure(RATE);
    }, 240_000);

    test("remove leaves nothing of it", async () => {
      await imdsproxy("remove");
      expect(await nft("list", "tables")).not.toContain("imdsproxy");
      expect(await imdsproxy("remove")).toContain("nothing to do");
      await imdsproxy("apply");
    });
  });
});
