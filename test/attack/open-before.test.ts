import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { mustExec } from "../support/node.ts";
import { applyRules, eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * Connections that were opened before there were rules, on which nothing is sent until the rules have been flushed: no packet of theirs
 * ever meets a rule.
 */

const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
const FLUSH = `for i in iptables ip6tables; do $i -F; $i -t nat -F; done
iptables -t nat -A OUTPUT -d 169.254.169.254/32 -p tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081`;

describeAsRoot("connections from before the rules", () => {
  let node: SimulatedNode;
  let round = 0;
  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-euc", line]);
  /** Opens connections, does something, and asks on them. */
  const asked = async (who: { readonly user: string }, meanwhile: () => Promise<unknown>) => {
    const [ready, go] = ["ready", "go"].map((name) => `/tmp/${name}${round++}`) as [string, string];
    const running = node.spawn({
      ...who,
      argv: ["/usr/bin/python3", "/run/attack/idle.py", ready, go],
      timeoutMs: 0,
    });
    await eventually("all are open", () => existsSync(node.path(ready)));
    await meanwhile();
    await shell(`: >${go}`);
    const { stdout, stderr } = await running.done;
    expect(stderr).toBe("");
    return JSON.parse(stdout) as Record<string, string>;
  };
  const served = (answers: Record<string, string>) =>
    Object.entries(answers)
      .filter(([, answer]) => answer.startsWith("HTTP/1.1 "))
      .map(([way]) => way)
      .sort();
  const WAYS = [
    ...["agent", "agent by lo", "agent by mptcp", "ipv6", "mapped"],
    ...["metadata", "metadata by mptcp", "metadata from 10.77.0.2"],
  ];

  beforeAll(async () => {
    ({ node } = await startProxiedNode({ show: SHOW_PROGRAMS }));
  });
  beforeEach(async () => {
    await shell(`imdsproxy iptables remove; ${FLUSH}`);
  });
  afterAll(() => node?.stop());

  test("without rules, each is answered", async () => {
    expect(served(await asked(ALICE, async () => {}))).toEqual(WAYS);
  });
  test("of users, none is answered once the rules have come, also when they are flushed before anything is sent; of root, each is", async () => {
    const rulesAndFlush = () => applyRules(node).then(() => shell(FLUSH));
    const answers = await asked(ALICE, rulesAndFlush);
    expect([Object.keys(answers).sort(), served(answers)]).toEqual([WAYS, []]);
    await shell("imdsproxy iptables remove");
    expect(served(await asked(ROOT, rulesAndFlush))).toEqual(WAYS);
  });
  test("that lead to the proxy go on", async () => {
    await shell("iptables -t nat -F; imdsproxy iptables add-proxy");
    const answers = await asked(ALICE, () => shell("imdsproxy iptables block-direct"));
    expect(served(answers)).toEqual(WAYS.filter((way) => !way.startsWith("agent")));
    expect(Object.keys(answers).sort()).toEqual(WAYS);
  });
});
