import { afterAll, beforeAll, expect, test } from "bun:test";
import { attack, SHOW_PROGRAMS, victim } from "../attack/support/attack.ts";
import { assumed, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

/**
 * A job whose processes all ask for their credentials at the same moment, as the ranks of an MPI job do. FLOODS=1 has the same
 * with 4,000 processes (test/attack/floods.test.ts): as many as that beside other tests would delay those.
 */

const PROCESSES = 8;
const CLIENTS_EACH = 500;

/** What programs/clients.py says. */
interface Clients {
  readonly requests: number;
  readonly failures: Readonly<Record<string, number>>;
}

describeAsRoot("4,000 clients of one user that begin at once", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({
      users: [
        { name: "alice", uid: 2001 },
        { name: "bob", uid: 2002 },
      ],
      show: SHOW_PROGRAMS,
    });
  });
  afterAll(() => proxied?.node.stop());

  test("have all of their 12,000 requests answered, the first ones without a session; and bob is served meanwhile", async () => {
    const { node } = proxied;
    const job = attack<Clients>(node, { user: "alice" }, "clients", [PROCESSES, CLIENTS_EACH], 200_000);
    const bob = await victim(node, { user: "bob" }, 2, 20);
    const { requests, failures } = await job;
    expect([requests, failures]).toEqual([3 * PROCESSES * CLIENTS_EACH, {}]);
    expect(bob.failures).toEqual({});
    expect(bob.rounds).toBeGreaterThan(0);
    // One session, whoever asked first.
    expect((await assumed(node)).filter((session) => session.startsWith("alice@"))).toHaveLength(1);
  }, 240_000);
});
