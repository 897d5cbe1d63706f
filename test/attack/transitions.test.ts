import { afterAll, beforeAll, expect, test } from "bun:test";
import { mustExec } from "../support/node.ts";
import { startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";
import { BESIEGED, Siege } from "./support/siege.ts";

/**
 * The administrator changes the rules while users and a container ask for the instance role in each way that they have: from one
 * configuration to another, no moment is open.
 */

/** How often each change is made: IMDSPROXY_TRANSITIONS=100 for a long run. */
const TIMES = Number(process.env["IMDSPROXY_TRANSITIONS"] ?? "1");
const ROOT = { user: "root" } as const;

/** Each ends as it began, with everything closed. */
const CHANGES: Readonly<Record<string, readonly string[]>> = {
  "another upstream, and back": ["apply --upstream http://10.77.0.1:8080", "apply"],
  "the proxy's port, and back": ["apply --listen 127.0.0.1:255", "apply"],
  "an upstream on this node, and another port": [
    "apply --upstream http://127.0.0.1:9081 --listen 127.0.0.1:255",
    "apply",
  ],
  "the redirect goes and comes": ["remove-proxy", "add-proxy"],
  "the block comes once more": ["block-direct", "apply"],
};

describeAsRoot("from one configuration to another", () => {
  let node: SimulatedNode;
  let siege: Siege;

  beforeAll(async () => {
    ({ node } = await startProxiedNode(
      { iptables: "nft", show: SHOW_PROGRAMS },
      { containers: "reject" },
      (started) => mustExec(started, ROOT, ["sh", "-euc", BESIEGED]),
    ));
    siege = await Siege.begin(node);
  });
  afterAll(() => node?.stop());

  for (const [name, commands] of Object.entries(CHANGES)) {
    test(
      `${name}: no user and no container has the instance role for a moment`,
      async () => {
        for (let i = 0; i < TIMES; i++)
          for (const command of commands)
            await mustExec(node, ROOT, ["imdsproxy", "iptables", ...command.split(" ")]);
        await siege.rounds(1);
        expect(siege.leaks).toBe(0);
      },
      180_000 + 10_000 * TIMES,
    );
  }
  test("at the end, nobody but root has had it", async () => {
    const { alice, box, root } = await siege.end();
    expect([alice.ways, box.ways]).toEqual([{}, {}]);
    expect(root.leaks).toBeGreaterThan(0);
  });
});
