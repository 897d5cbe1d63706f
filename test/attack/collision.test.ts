import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { ADDRESSES } from "../../src/demo/network.ts";
import { mustExec } from "../support/node.ts";
import { eventually, givenCredentials, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { attack, SHOW_PROGRAMS, type VictimReport, victim } from "./support/attack.ts";

/**
 * The port-collision attack (design.md, "Identity"): an attacker occupies the ports that the redirect would give a
 * victim's connection, so that NAT gives one of the two another port, and whoever looks at the port confuses them.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const ALICE_UID = "2001";
const BOB_UID = "2002";
const SECONDS = 3;
/** How many of the 300 ports she takes before anything else. */
const AT_ONCE = 250;
/** How many ports there are in each try against the proxy that it works against; connect(2) takes the even ones first. */
const FEW_PORTS = 20;
/** For how long the attack is tried on it. */
const MOST_MS = 240_000;
/** The naive proxy's port. */
const NAIVE_PORT = 989;
const BETTER = "arn:aws:iam::842413447717:role/Better";

interface Told {
  readonly identities: Readonly<Record<string, number>>;
}
interface Collision extends Told {
  /** Connections at once. */
  readonly most: number;
  readonly attempts: number;
}

const FAMILIES = [
  { family: "IPv4", own: ADDRESSES.node4, proxy: "127.0.0.1", metadata: ADDRESSES.imds4, tool: "iptables" },
  { family: "IPv6", own: ADDRESSES.node6, proxy: "::1", metadata: ADDRESSES.imds6, tool: "ip6tables" },
] as const;

describeAsRoot("port collisions", () => {
  let node: SimulatedNode;
  const givePorts = (first: number, last: number) =>
    mustExec(node, ROOT, ["sysctl", "-qw", `net.ipv4.ip_local_port_range=${first} ${last}`]);
  beforeAll(async () => {
    const proxied = await startProxiedNode(
      { show: SHOW_PROGRAMS },
      { rules: [{ name: "bob", match: { user: "bob" }, role: BETTER }] },
    );
    node = proxied.node;
    // His first request may be told to come back.
    await givenCredentials(node, BOB);
    // The whole range of ephemeral ports; a small one, so that all of it is taken in a moment.
    await givePorts(40_000, 40_299);
  });
  afterAll(() => node?.stop());

  for (const { family, own, proxy, metadata, tool } of FAMILIES) {
    describe(`over ${family}`, () => {
      /** @param atOnce, attempts what she has to have come to: on a slow machine it takes her longer than SECONDS. */
      const collide = (port: number, atOnce = 0, attempts = 0): Promise<Collision> =>
        attack<Collision>(node, ALICE, "collide", [own, proxy, port, SECONDS, atOnce, attempts]);
      const both = async (
        port: number,
        atOnce: number,
        attempts: number,
      ): Promise<{ alice: Collision; bob: VictimReport }> => {
        const [alice, bob] = await Promise.all([
          collide(port, atOnce, attempts),
          victim(node, BOB, SECONDS, 2, { host: metadata, port: 80 }, 21),
        ]);
        return { alice, bob };
      };
      /** Every identity that alice was given; what was no answer aside. */
      const given = ({ identities }: Told) =>
        Object.keys(identities).filter((who) => /^\d+$/.test(who) || /better/i.test(who));
      const bobIsBob = (bob: VictimReport) => {
        expect(bob.failures).toEqual({});
        expect(bob.rounds).toBeGreaterThan(20);
        expect(bob.roles).toEqual({ Better: bob.rounds });
        expect(Object.keys(bob.sessions)).toHaveLength(1);
      };

      test("works against a proxy that looks at the peer's address and port", async () => {
        const naive = node.spawn({
          ...ROOT,
          argv: ["/usr/bin/python3", "/run/attack/naive.py", "peer", String(NAIVE_PORT), proxy].slice(
            0,
            family === "IPv4" ? 4 : 5,
          ),
          timeoutMs: 0,
        });
        const entry = ["-d", metadata, "-p", "tcp", "--dport", "80", "-j", "DNAT"];
        const target = ["--to-destination", `${proxy.includes(":") ? `[${proxy}]` : proxy}:${NAIVE_PORT}`];
        // The second wall lets redirected connections reach nobody but the proxy.
        await mustExec(node, ROOT, ["/run/bin/imdsproxy", "iptables", "remove"]);
        await mustExec(node, ROOT, [tool, "-w", "5", "-t", "nat", "-I", "OUTPUT", ...entry, ...target]);
        try {
          await eventually("the naive proxy answers", async () => {
            const { identities } = await attack<Told>(node, BOB, "asker", [metadata, 80, 0.1]);
            return identities[BOB_UID] !== undefined;
          });
          // Where both have a port, conntrack leaves it to whoever had it first, for as long as that is not ten seconds ago, and the naive proxy
          // takes the socket that comes first in the kernel's table. Of the two it is the same one's on all ports: linux 6.15 and later add the
          // port to a hash of the rest (inet_ehashfn() in net/ipv4/inet_hashtables.c). So it depends on the node which of them has to be
          // first, and each has a turn, on ports of their own. These are few, since the naive proxy takes long for each connection.
          const tries: [Told["identities"], Told["identities"]][] = [];
          let confused = false;
          const endMs = performance.now() + MOST_MS;
          // Longer each time: on a slow machine it takes her a while to have most of the ports.
          for (let seconds = SECONDS; !confused && performance.now() < endMs; seconds *= 1.5) {
            const first = 40_000 + FEW_PORTS * tries.length;
            await givePorts(first, first + FEW_PORTS - 1);
            if (tries.length % 2 === 0) await collide(NAIVE_PORT, FEW_PORTS);
            else await attack<Told>(node, BOB, "asker", [metadata, 80, 1]);
            const [alice, bob] = await Promise.all([
              attack<Collision>(node, ALICE, "collide", [own, proxy, NAIVE_PORT, seconds]),
              attack<Told>(node, BOB, "asker", [metadata, 80, seconds]),
            ]);
            tries.push([alice.identities, bob.identities]);
            confused = given(alice).includes(BOB_UID) || given(bob).some((who) => who !== BOB_UID);
          }
          expect([tries, confused]).toEqual([tries, true]);
        } finally {
          await mustExec(node, ROOT, [tool, "-w", "5", "-t", "nat", "-D", "OUTPUT", ...entry, ...target]);
          naive.kill("SIGKILL");
          await naive.done;
          await givePorts(40_000, 40_299);
          await mustExec(node, ROOT, ["/run/bin/imdsproxy", "iptables", "apply"]);
        }
      }, 480_000);

      test("get nothing, and cost the victim nothing", async () => {
        const { alice, bob } = await both(254, 0, 101);
        expect(alice.attempts).toBeGreaterThan(100);
        expect(given(alice)).toEqual([]);
        bobIsBob(bob);
      });

      test("get nothing of the victim's with our filter chain flushed", async () => {
        await mustExec(node, ROOT, [tool, "-w", "5", "-F", "IMDSPROXY"]);
        try {
          const { alice, bob } = await both(254, AT_ONCE, 0);
          // She is let in, and is who she is.
          expect(alice.most).toBeGreaterThan(200);
          expect(given(alice)).toEqual([ALICE_UID]);
          bobIsBob(bob);
        } finally {
          await mustExec(node, ROOT, ["/run/bin/imdsproxy", "iptables", "apply"]);
        }
      });
    });
  }
});
