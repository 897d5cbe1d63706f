import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { CLOSED_SECONDS } from "../../src/firewall/limits/figures.ts";
import { mustExec } from "../support/node.ts";
import { applyRules, givenCredentials, startProxiedNode, testConfig } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { attack, SHOW_PROGRAMS, victim } from "./support/attack.ts";

/**
 * The kernel's table of tracked connections is all users' and root's. One process that sends datagrams to itself has filled
 * it in seconds, and then nobody on the node has a new connection, the proxy and root included.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const SUBORDINATE = 300_000;
const SECONDS = 4;
/** Small, so that an attack reaches it in the time that a test has. */
const LIVE = 2_000;
const BEGUN = { perSecond: LIVE / 4, burst: LIVE };
/** Those of bob, of root and of the proxy. */
const OTHERS = 1_000;

interface Filled {
  readonly begun: number;
  readonly refused: number;
  /** Entries of the table, all users' and root's. */
  readonly most: number;
}

describeAsRoot("the table of tracked connections:", () => {
  let node: SimulatedNode;
  const configure = async (tracked: number | null | "auto") => {
    const config = testConfig(node, { limits: { trackedConnectionsPerUser: tracked } });
    node.write("/etc/imdsproxy/config.yaml", JSON.stringify(config));
    await applyRules(node);
  };
  /** The entries of earlier attacks are no matter of the next one's. */
  const empty = () => mustExec(node, ROOT, ["conntrack", "-F"]);

  beforeAll(async () => {
    const proxied = await startProxiedNode({
      users: [
        { name: "alice", uid: 2001, subordinate: [SUBORDINATE, 65_536] },
        { name: "bob", uid: 2002 },
      ],
      show: SHOW_PROGRAMS,
    });
    node = proxied.node;
    await givenCredentials(node, BOB);
    await victim(node, BOB, 1, 5);
  });
  afterAll(() => node?.stop());

  describe("without a limit", () => {
    beforeAll(() => configure(null));
    afterAll(empty);

    test("one process has more than ten users' parts in seconds", async () => {
      const { most } = await attack<Filled>(node, ALICE, "tracked", ["datagrams", SECONDS], undefined, {
        TRACKED_HELD: String(10 * LIVE + 1),
      });
      expect(most).toBeGreaterThan(10 * LIVE);
    });
  });

  describe("with a limit", () => {
    beforeAll(() => configure(LIVE));
    /** What is live, four deviations included, and what was closed within the time for which that stays. */
    const LIVE_MOST = 1.5 * LIVE;
    const CLOSED_MOST = BEGUN.burst + BEGUN.perSecond * (CLOSED_SECONDS + 2);

    const attacks: readonly (readonly [
      name: string,
      who: Who,
      args: readonly (string | number)[],
      most: number,
    ])[] = [
      ["datagrams to herself", ALICE, ["datagrams", SECONDS], LIVE_MOST],
      ["datagrams to another node", ALICE, ["datagrams", SECONDS, "10.77.0."], LIVE_MOST],
      ["datagrams to and fro between her sockets", ALICE, ["pairs", SECONDS], LIVE_MOST],
      ["connections to herself that are held", ALICE, ["held", SECONDS], LIVE_MOST],
      [
        "connections to herself that are closed at once",
        ALICE,
        ["closed", 2 * SECONDS],
        LIVE_MOST + CLOSED_MOST,
      ],
      ["the same by MPTCP sockets", ALICE, ["mptcp", 2 * SECONDS], LIVE_MOST + CLOSED_MOST],
      ["datagrams of a thousand subordinate uids", ROOT, ["crowd", SECONDS, SUBORDINATE], LIVE_MOST],
    ];
    for (const [name, who, args, most] of attacks) {
      test(`${name} take no more than one user's part, and bob is served`, async () => {
        await empty();
        const flood = attack<Filled>(node, who, "tracked", args, undefined, {
          TRACKED_TRIED: String(LIVE + 1),
        });
        const bob = await victim(node, BOB, SECONDS - 1, 20);
        const filled = await flood;
        console.log(name, JSON.stringify({ ...filled, bobMs: bob.maxMs }));
        // She got to her limit, or it says nothing.
        expect(filled.begun + filled.refused).toBeGreaterThan(LIVE);
        expect(filled.most).toBeLessThan(most + OTHERS);
        expect(bob.failures).toEqual({});
        expect((await givenCredentials(node, BOB)).status).toBe(200);
      }, 180_000);
    }

    test("root has no limit", async () => {
      await empty();
      const { refused, most } = await attack<Filled>(node, ROOT, "tracked", ["datagrams", 2], undefined, {
        TRACKED_HELD: String(LIVE_MOST + OTHERS + 1),
      });
      expect(refused).toBe(0);
      expect(most).toBeGreaterThan(LIVE_MOST + OTHERS);
    });
  });
});
