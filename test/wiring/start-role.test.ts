import { expect, test } from "bun:test";
import { parseConfig } from "../../src/config/load.ts";
import { compileRules } from "../../src/rules/decide.ts";
import { Health } from "../../src/telemetry/health.ts";
import type { UpstreamAnswer } from "../../src/upstream/cache.ts";
import { watchStartRole } from "../../src/wiring/start-role.ts";
import { denied, passing } from "../sessions/support.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

const ROLE = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";

/** The check, with an STS and a metadata service that answer as they are told to. */
function aCheck(instanceId: string | null = "i-0123456789abcdef0") {
  const clock = new FakeClock();
  const health = new Health({ now: () => clock.now(), stsEndpoint: async () => "https://sts", checks: {} });
  const node = {
    instanceId,
    /** The error of the next attempts; null: they succeed. */
    error: null as Error | null,
    role: ROLE as string | null,
    sessionName: "{user}@{instanceId}",
    /** Null: the metadata service does not answer. */
    region: "us-west-2" as string | null,
    asked: [] as string[],
  };
  const stop = watchStartRole({
    policy: () => ({
      rules: compileRules(
        parseConfig(JSON.stringify({ role: node.role, sessionName: node.sessionName }), "config.yaml"),
      ),
    }),
    sts: {
      async assumeRole(request) {
        node.asked.push(request.sessionName);
        if (node.error !== null) throw node.error;
        return {
          accessKeyId: "ASIAEXAMPLE",
          secretAccessKey: "s",
          sessionToken: "t",
          expiresAtMs: clock.now() + 3_600_000,
          obtainedAtMs: clock.now(),
        };
      },
    },
    metadata: {
      async read(): Promise<UpstreamAnswer> {
        if (node.instanceId === null) return { kind: "failed", why: "nobody listens" };
        return { kind: "found", body: node.instanceId, lastModifiedMs: null };
      },
    },
    region: async () => {
      if (node.region === null) throw new Error("nobody listens");
      return node.region;
    },
    health,
    endpoint: async () => "https://sts",
    clock,
    log: { info: () => {}, warn: () => {} },
    random: () => 1,
  });
  return { clock, health, node, stop };
}

test("a role that can be assumed is no problem, and is tried once", async () => {
  const { clock, health, node } = aCheck();
  await settle();
  await clock.advance(3_600_000);
  expect(node.asked).toEqual(["imdsproxy-check@i-0123456789abcdef0"]);
  expect(await health.problems()).toEqual([]);
});

test("what passes is tried again after 1, 2 and 4 s, and is no problem from then on", async () => {
  const { clock, health, node } = aCheck();
  node.error = passing();
  await settle();
  expect(await health.problems()).toHaveLength(1);
  await clock.advance(999);
  expect(node.asked).toHaveLength(1);
  await clock.advance(1);
  expect(node.asked).toHaveLength(2);
  await clock.advance(2_000);
  expect(node.asked).toHaveLength(3);
  node.error = null;
  await clock.advance(4_000);
  expect(node.asked).toHaveLength(4);
  expect(await health.problems()).toEqual([]);
});

test("a denial is tried again after a minute", async () => {
  const { clock, health, node } = aCheck();
  node.error = denied();
  await settle();
  await clock.advance(59_999);
  expect(node.asked).toHaveLength(1);
  expect(await health.problems()).toMatchObject([{ id: "sts", lasting: true }]);
  node.error = null;
  await clock.advance(1);
  expect(await health.problems()).toEqual([]);
});

test("a failure from a time when the node's instance id could not be read goes with the next attempt", async () => {
  const { clock, health, node } = aCheck(null);
  node.error = passing();
  await settle();
  expect(await health.problems()).toHaveLength(1);
  [node.error, node.instanceId] = [null, "i-0123456789abcdef0"];
  await clock.advance(1_000);
  expect(node.asked).toEqual(["imdsproxy-check@none", "imdsproxy-check@i-0123456789abcdef0"]);
  expect(await health.problems()).toEqual([]);
});

test("where a reload takes the default role away, its failure goes too", async () => {
  const { clock, health, node } = aCheck();
  node.error = passing();
  await settle();
  expect(await health.problems()).toHaveLength(1);
  node.role = null;
  await clock.advance(1_000);
  expect(await health.problems()).toEqual([]);
});

test("after it was stopped nothing is tried", async () => {
  const { clock, node, stop } = aCheck();
  node.error = passing();
  await settle();
  stop();
  await clock.advance(600_000);
  expect(node.asked).toHaveLength(1);
});

test("a role whose session has the region in its name is tried once the region is known", async () => {
  const { clock, health, node } = aCheck();
  node.sessionName = "{user}.{region}";
  node.region = null;
  await settle();
  expect([node.asked, await health.problems()]).toEqual([[], []]);
  node.region = "eu-north-1";
  await clock.advance(60_000);
  expect(node.asked).toEqual(["imdsproxy-check.eu-north-1"]);
});
