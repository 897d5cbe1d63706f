import { afterAll, beforeAll, expect, test } from "bun:test";
import { BRIDGE } from "../support/bridge.ts";
import { mustExec } from "../support/node.ts";
import { eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";

/** Users keep Prometheus from the metrics: on this node, and on another machine, for which a container stands. */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const PROGRAM = ["/usr/bin/python3", "/run/attack/scrape_siege.py"];
const PORT = "9254";
/** The node's address on the bridge. */
const NODE = "172.17.0.1";
/** As many as have all connections of the port between them. */
const ACCOUNTS = Array.from({ length: 16 }, (_, index) => String(3_000 + index));
const ROUNDS = 3;

describeAsRoot("a scraper of the metrics", () => {
  let node: SimulatedNode;
  beforeAll(async () => {
    ({ node } = await startProxiedNode(
      { show: SHOW_PROGRAMS },
      { metrics: { listen: `0.0.0.0:${PORT}` } },
      (started) => mustExec(started, ROOT, ["sh", "-c", BRIDGE]),
    ));
  });
  afterAll(() => node?.stop());

  /** What came of a scraper's requests while something was done by some. */
  async function scrapedWhile(
    sieges: readonly (readonly [who: Who, ...argv: string[]])[],
    host: string,
    where: readonly string[],
  ): Promise<unknown> {
    const running = sieges.map(([who, ...argv]) =>
      node.spawn({ ...who, argv: [...PROGRAM, ...argv], timeoutMs: 0 }),
    );
    try {
      await eventually("they are at it", () => running.every((one) => one.stdout() === "ready\n"), 150_000);
      const argv = [...where, ...PROGRAM, "scrape", host, PORT, String(ROUNDS)];
      return JSON.parse(await mustExec(node, ROOT, argv, { timeoutMs: 200_000 }));
    } finally {
      for (const one of running) one.kill("SIGKILL");
      await Promise.all(running.map((one) => one.done));
    }
  }
  const ALL = { "kept: ok": ROUNDS, "new: ok": ROUNDS };

  test("on this node is served while sixteen accounts take no answer on all the connections that there are", async () => {
    const stalled = [ROOT, "stall", "127.0.0.1", PORT, ...ACCOUNTS] as const;
    expect(await scrapedWhile([stalled], "127.0.0.1", [])).toEqual(ALL);
  }, 400_000);

  test("on another machine is served while a user makes connections that nobody can identify", async () => {
    const gone = [ALICE, "gone", NODE, PORT] as const;
    expect(await scrapedWhile([gone], NODE, ["ip", "netns", "exec", "box"])).toEqual(ALL);
  }, 400_000);
});
