import { describe, expect, test } from "bun:test";
import type { SessionEvent } from "../../src/sessions/events.ts";
import { passingRemedy } from "../../src/sessions/remedy.ts";
import { type Finding, Health, type HealthOptions } from "../../src/telemetry/health.ts";
import { aRequest } from "../sessions/support.ts";

const MINUTE = 60_000;
const START = Date.UTC(2026, 0, 1);

function aHealth(checks: HealthOptions["checks"] = {}) {
  const time = { nowMs: START };
  const health = new Health({
    now: () => time.nowMs,
    stsEndpoint: async () => "https://sts.us-west-2.amazonaws.com",
    checks,
  });
  return { time, health };
}

const failed = (
  code: string,
  sessionName = "alice@i-0123",
  type: "denied" | "failed" = "failed",
): SessionEvent => ({
  type,
  request: aRequest({ sessionName }),
  reason: "asked",
  tookMs: 5,
  code,
  message: `told to ${sessionName}`,
  detail: `for root: ${code}`,
  againInMs: 1_000,
  servingUntilMs: null,
});
const obtained = (sessionName = "alice@i-0123"): SessionEvent => ({
  type: "obtained",
  request: aRequest({ sessionName }),
  reason: "retry",
  tookMs: 5,
  accessKeyId: "ASIAEXAMPLE",
  expiresAtMs: START + 3600_000,
});

describe("Health", () => {
  test("knows of nothing at first", async () => {
    const { health } = aHealth();
    expect(await health.problems()).toEqual([]);
    expect(health.ownFailure(aRequest())).toBeNull();
  });
  test("a failure has the time at which it was first seen, however often it comes", async () => {
    const { time, health } = aHealth();
    health.session(failed("connection"));
    time.nowMs += 5 * MINUTE;
    health.session(failed("connection"));
    const [problem] = await health.problems();
    expect(problem).toMatchObject({ id: "sts", since: "2026-01-01T00:00:00.000Z", lasting: false });
    expect(problem?.remedy).toContain("https://sts.us-west-2.amazonaws.com");
    expect(health.ownFailure(aRequest())?.since).toBe("2026-01-01T00:00:00.000Z");
  });
  test("another error begins anew", async () => {
    const { time, health } = aHealth();
    health.session(failed("connection"));
    time.nowMs += MINUTE;
    health.session(failed("Throttling"));
    expect(await health.problems()).toMatchObject([{ since: "2026-01-01T00:01:00.000Z" }]);
  });
  test("is over when the session comes", async () => {
    const { health } = aHealth();
    health.session(failed("connection"));
    health.session(obtained());
    expect(await health.problems()).toEqual([]);
    expect(health.ownFailure(aRequest())).toBeNull();
  });
  test("one problem for a role and an error, with the number of its sessions; each caller has their own words", async () => {
    const { health } = aHealth();
    for (const user of ["alice", "bob", "carol"]) health.session(failed("timeout", user));
    const problems = await health.problems();
    expect(problems).toHaveLength(1);
    expect(problems[0]?.what).toContain("(timeout, 3 sessions)");
    expect(health.ownFailure(aRequest({ sessionName: "bob" }))?.message).toBe("told to bob");
    expect(health.ownFailure(aRequest({ sessionName: "dave" }))).toBeNull();
    expect(JSON.stringify(health.ownFailure(aRequest({ sessionName: "bob" })))).not.toContain("for root");
  });
  test("what waiting does not mend comes first, with the statements that are missing", async () => {
    const { health } = aHealth();
    health.session(failed("timeout", "alice"));
    health.session(failed("AccessDenied", "bob", "denied"));
    const problems = await health.problems();
    expect(problems.map(({ lasting }) => lasting)).toEqual([true, false]);
    expect(problems[0]?.remedy).toContain("trust policy of");
  });
  test("what nobody asked for again is no news after a quarter of an hour", async () => {
    const { time, health } = aHealth();
    health.session(failed("connection"));
    time.nowMs += 16 * MINUTE;
    expect(await health.problems()).toEqual([]);
    expect(health.ownFailure(aRequest())).toBeNull();
  });
  test("remembers a bounded number of sessions: the last", async () => {
    const { health } = aHealth();
    for (let i = 0; i < 2_000; i++) health.session(failed("timeout", `user${i}`));
    expect((await health.problems())[0]?.what).toContain("1024 sessions");
    expect(health.ownFailure(aRequest({ sessionName: "user0" }))).toBeNull();
    expect(health.ownFailure(aRequest({ sessionName: "user1999" }))).not.toBeNull();
  });
  test("a check's finding has the time at which it was first found, and none when it is over", async () => {
    const finding: Finding = { what: "w", remedy: null, lasting: false };
    let found: Finding | null = finding;
    const { time, health } = aHealth({ upstream: () => found });
    expect(await health.problems()).toMatchObject([{ id: "upstream", since: "2026-01-01T00:00:00.000Z" }]);
    time.nowMs += MINUTE;
    expect(await health.problems()).toMatchObject([{ since: "2026-01-01T00:00:00.000Z" }]);
    found = null;
    expect(await health.problems()).toEqual([]);
    found = finding;
    expect(await health.problems()).toMatchObject([{ since: "2026-01-01T00:01:00.000Z" }]);
  });
});

describe("passingRemedy()", () => {
  const cases: [code: string, expected: string][] = [
    ["clock", "chronyc"],
    ["RequestExpired", "clock is right"],
    ["SignatureDoesNotMatch", "clock is right"],
    ["Throttling", "too often"],
    ["credentials", "instance role"],
    ["answer", "sts.endpoint"],
    ["connection", "can reach https://sts"],
    ["timeout", "can reach https://sts"],
    ["anything else", "can reach https://sts"],
  ];
  for (const [code, expected] of cases) {
    test(code, () => expect(passingRemedy(code, "https://sts")).toContain(expected));
  }
});
