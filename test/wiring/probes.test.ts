import { describe, expect, test } from "bun:test";
import { liveness, type ProbeSources, probeAnswer, readiness } from "../../src/wiring/probes.ts";

const STATES = { fresh: 0, low: 0, pending: 0, denied: 0, failed: 0 };
const RIGHT: ProbeSources = {
  accepting: () => true,
  upstreamAnswers: async () => true,
  tokensRequired: () => false,
  firewall: () => null,
  broker: () => ({ states: STATES }),
  object: () => null,
};
const firewall = (healthy: boolean) => () => ({ repairs: 0, healthy, lastRepair: null, lastCheck: null });

describe("/readyz", () => {
  test("is 200 with a line for each check where nothing is wrong", async () => {
    expect(probeAnswer("readyz", await readiness(RIGHT))).toEqual({
      status: 200,
      text: "[+]accepting ok\n[+]upstream ok\n[+]tokens ok\n[+]firewall ok\n[+]sts ok\nreadyz check passed\n",
    });
  });

  test.each<[string, Partial<ProbeSources>, string]>([
    ["accepting", { accepting: () => false }, "connections are not accepted"],
    ["upstream", { upstreamAnswers: async () => false }, "the node's own metadata service does not answer"],
    [
      "upstream",
      { upstreamAnswers: () => Promise.reject(new Error("uid 2001 answers there")) },
      "the node's own metadata service does not answer",
    ],
    ["tokens", { tokensRequired: () => null }, "the upstream has not said yet whether it requires tokens"],
    ["firewall", { firewall: firewall(false) }, "the firewall rules are not as they should be"],
    ["sts", { broker: () => ({ states: { ...STATES, denied: 1 } }) }, "STS gives no session"],
  ])("is 503 where %s fails, and says why", async (name, over, problem) => {
    const { status, text } = probeAnswer("readyz", await readiness({ ...RIGHT, ...over }));
    expect(status).toBe(503);
    expect(text.split("\n").filter((line) => !line.startsWith("[+]"))).toEqual([
      `[-]${name} failed: ${problem}`,
      "readyz check failed",
      "",
    ]);
  });

  test("is 200 where one role is denied and others have sessions, and where the rules are right", async () => {
    const broker = () => ({ states: { ...STATES, denied: 1, fresh: 1 } });
    const checks = await readiness({ ...RIGHT, broker, firewall: firewall(true) });
    expect(probeAnswer("readyz", checks).status).toBe(200);
  });
});

describe("/readyz on a node with a fleet's object", () => {
  const text = async (object: ReturnType<ProbeSources["object"]>) =>
    probeAnswer("readyz", await readiness({ ...RIGHT, object: () => object }));
  test("warns where the last poll failed, and stays ready", async () => {
    const { status, text: said } = await text({ problem: null, warning: "the last poll failed" });
    expect(status).toBe(200);
    expect(said).toContain("[+]object ok, with a warning: the last poll failed\n");
  });
  test("is not ready without an object", async () => {
    const { status, text: said } = await text({ problem: "there is no object", warning: null });
    expect(status).toBe(503);
    expect(said).toContain("[-]object failed: there is no object\n");
  });
});

test("/healthz depends on nothing but the process: what a restart does not mend is not in it", () => {
  const away = { ...RIGHT, upstreamAnswers: async () => false, tokensRequired: () => null };
  expect(probeAnswer("healthz", liveness(away))).toEqual({
    status: 200,
    text: "[+]accepting ok\nhealthz check passed\n",
  });
  expect(probeAnswer("healthz", liveness({ ...RIGHT, accepting: () => false })).status).toBe(503);
});
