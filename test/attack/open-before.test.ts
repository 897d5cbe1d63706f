import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { BRIDGE } from "../support/bridge.ts";
import { mustExec } from "../support/node.ts";
import { applyRules, eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { attack, flushBut, SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * Connections that were opened before there were rules, on which nothing is sent until the rules have been flushed: no packet of theirs
 * ever meets a rule.
 */

const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
const FLUSH = flushBut();

const WAYS = [
  ...["agent", "agent by lo", "agent by mptcp", "ipv6", "mapped"],
  ...["metadata", "metadata by mptcp", "metadata from 10.77.0.2"],
];
/** Those that lead out of a bridge: it has IPv4 alone, and addresses of its own. */
const FROM_A_CONTAINER = ["agent", "agent by mptcp", "mapped", "metadata", "metadata by mptcp"];

const shellIn = (node: SimulatedNode, line: string) => mustExec(node, ROOT, ["sh", "-euc", line]);
let round = 0;
/** How long answers are waited for: where all are to come, and where some or all are not. */
const ALL_SECONDS = 20;
const SOME_SECONDS = 3;
/** Opens connections, does something, and asks on them. @param who.by a command that starts the program elsewhere. */
async function askedOn(
  node: SimulatedNode,
  { user, by = [] }: { readonly user: string; readonly by?: readonly string[] },
  seconds: number,
  meanwhile: () => Promise<unknown>,
): Promise<Record<string, string>> {
  const [ready, go] = ["ready", "go"].map((name) => `/tmp/${name}${round++}`) as [string, string];
  const argv = [...by, "/usr/bin/python3", "/run/attack/idle.py", ready, go, String(seconds)];
  const running = node.spawn({ user, argv, timeoutMs: 0 });
  await eventually("all are open", () => existsSync(node.path(ready)));
  await meanwhile();
  await shellIn(node, `: >${go}`);
  const { stdout, stderr } = await running.done;
  expect(stderr).toBe("");
  return JSON.parse(stdout) as Record<string, string>;
}
const served = (answers: Record<string, string>) =>
  Object.entries(answers)
    .filter(([, answer]) => answer.startsWith("HTTP/1.1 "))
    .map(([way]) => way)
    .sort();

describeAsRoot("connections from before the rules", () => {
  let node: SimulatedNode;
  const shell = (line: string) => shellIn(node, line);
  const asked = (who: { readonly user: string }, seconds: number, meanwhile: () => Promise<unknown>) =>
    askedOn(node, who, seconds, meanwhile);

  beforeAll(async () => {
    ({ node } = await startProxiedNode({ show: SHOW_PROGRAMS }));
  });
  beforeEach(async () => {
    await shell(`imdsproxy iptables remove; ${FLUSH}`);
  });
  afterAll(() => node?.stop());

  test("without rules, each is answered", async () => {
    expect(served(await asked(ALICE, ALL_SECONDS, async () => {}))).toEqual(WAYS);
  });
  test("of users, none is answered once the rules have come, also when they are flushed before anything is sent; of root, each is", async () => {
    const rulesAndFlush = () => applyRules(node).then(() => shell(FLUSH));
    const answers = await asked(ALICE, SOME_SECONDS, rulesAndFlush);
    expect([Object.keys(answers).sort(), served(answers)]).toEqual([WAYS, []]);
    await shell("imdsproxy iptables remove");
    expect(served(await asked(ROOT, ALL_SECONDS, rulesAndFlush))).toEqual(WAYS);
  });
  test("and new ones, whatever odd option their socket has: hers with the rules, none when they are flushed", async () => {
    const places = ["169.254.169.254", 80, "169.254.0.2", 9081, "fd00:ec2::254", 80];
    const rolesOf = async (who: { readonly user: string }) =>
      [...new Set(Object.values(await attack<Record<string, string>>(node, who, "odd_ways", places)))].filter(
        (one) => /Role/.test(one),
      );
    expect(await rolesOf(ROOT)).toEqual([node.roleName]);
    await applyRules(node);
    expect(await rolesOf(ALICE)).toEqual(["ImdsProxyTestRole"]);
    await shell(FLUSH);
    expect(await rolesOf(ALICE)).toEqual([]);
  });
  test("that lead to the proxy go on", async () => {
    await shell("iptables -t nat -F; imdsproxy iptables add-proxy");
    const answers = await asked(ALICE, SOME_SECONDS, () => shell("imdsproxy iptables block-direct"));
    expect(served(answers)).toEqual(WAYS.filter((way) => !way.startsWith("agent")));
    expect(Object.keys(answers).sort()).toEqual(WAYS);
  });
});

describeAsRoot("a container's connections from before the rules", () => {
  for (const containers of ["reject", "proxy"] as const) {
    test(`are not answered once the rules have come and were flushed, with containers: ${containers}`, async () => {
      const { node } = await startProxiedNode({ show: SHOW_PROGRAMS }, { containers }, (made) =>
        mustExec(made, ROOT, ["sh", "-c", BRIDGE]),
      );
      const inside = { ...ROOT, by: ["ip", "netns", "exec", "box"] };
      try {
        await shellIn(node, "imdsproxy iptables remove");
        // The attack works: without rules, each is answered.
        const before = await askedOn(node, inside, ALL_SECONDS, async () => {});
        expect(Object.keys(before).sort()).toEqual(FROM_A_CONTAINER);
        expect(served(before)).toEqual(FROM_A_CONTAINER);
        const after = await askedOn(node, inside, SOME_SECONDS, async () => {
          await applyRules(node);
          await shellIn(node, "iptables -F; iptables -t nat -F");
        });
        expect([Object.keys(after).sort(), served(after)]).toEqual([FROM_A_CONTAINER, []]);
      } finally {
        await node.stop();
      }
    });
  }
});
