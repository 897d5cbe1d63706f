import { afterAll, beforeAll, expect, test } from "bun:test";
import { assumed, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { attack, SHOW_PROGRAMS, type VictimReport, victim } from "./support/attack.ts";

/**
 * STS is called in the node's name, and what AWS gives an account is all users' of all its nodes. A user with subordinate
 * uids can ask for 65,536 sessions where the template names the uid: 80 calls a second, before there was a limit.
 */

const ROOT: Who = { user: "root" };
/** Each has no session yet; the second is asked where the machine made the first one's late, which is then told to come back. */
const OTHERS = { bob: 2002, carol: 2003, dave: 2004 };
const SUBORDINATE = [300_000, 65_536] as const;
const SECONDS = 6;
const USER = { perSecond: 2, burst: 20 };

interface Crowd {
  readonly statuses: Readonly<Record<string, number>>;
  /** Answers of 503 that do not say when to come again. */
  readonly withoutRetryAfter: number;
}

describeAsRoot("AssumeRole calls:", () => {
  let node: SimulatedNode;
  beforeAll(async () => {
    const proxied = await startProxiedNode(
      {
        users: [
          { name: "alice", uid: 2001, subordinate: SUBORDINATE },
          ...Object.entries(OTHERS).map(([name, uid]) => ({ name, uid })),
        ],
        show: SHOW_PROGRAMS,
      },
      {
        sessionName: "u{uid}",
        imds: { tokens: "optional" },
        limits: { assumeRolePerUser: USER, assumeRolePerNode: { perSecond: 20, burst: 50 } },
      },
    );
    node = proxied.node;
  });
  afterAll(() => node?.stop());

  test("all subordinate uids of a user have one bucket, and bob's session is had at once", async () => {
    const startedMs = performance.now();
    let failures: VictimReport["failures"] = { "not asked": 1 };
    let refused = 0;
    let withoutRetryAfter = 0;
    for (const user of Object.keys(OTHERS)) {
      const flood = attack<Crowd>(node, ROOT, "crowd_of_uids", [SUBORDINATE[0], SECONDS, 50]);
      const bob = await victim(node, { user }, SECONDS - 1, 20);
      const crowd = await flood;
      console.log(JSON.stringify({ user, bobMs: bob.maxMs, statuses: crowd.statuses }));
      failures = bob.failures;
      refused += crowd.statuses["503"] ?? 0;
      withoutRetryAfter += crowd.withoutRetryAfter;
      if (Object.keys(failures).length === 0) break;
    }
    const calls = await assumed(node);
    const tookSeconds = (performance.now() - startedMs) / 1_000;
    const hers = calls.filter((name) => name.startsWith("u3"));
    console.log(JSON.stringify({ calls: hers.length, tookSeconds }));
    // All that her bucket holds, and no call over that.
    expect(hers.length).toBeGreaterThanOrEqual(USER.burst);
    expect(hers.length).toBeLessThanOrEqual(USER.burst + USER.perSecond * (tookSeconds + 1));
    expect(refused).toBeGreaterThan(0);
    expect(withoutRetryAfter).toBe(0);
    expect(failures).toEqual({});
    expect(calls).toContain("u2002");
  }, 180_000);
});
