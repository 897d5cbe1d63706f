import { describe, expect, test } from "bun:test";
import { configSchema } from "../../src/config/schema.ts";
import type { Identity } from "../../src/identity/types.ts";
import { compileRules, type Rules } from "../../src/rules/decide.ts";
import { GivenSessions } from "../../src/wiring/given-sessions.ts";
import { aBroker, SECOND } from "../sessions/support.ts";
import { identityOf } from "../telemetry/audit-support.ts";

const role = (name: string) => `arn:aws:iam::842413447717:role/${name}`;
const inJob = (job: number): Partial<Identity> => ({
  cgroup: `/system.slice/slurmstepd.scope/job_${job}/step_0/user/task_0`,
  slurmJobId: String(job),
});
const JOBS = [{ name: "jobs", match: { slurmJob: true }, role: role("Job") }];
const rulesOf = (config: object): Rules =>
  compileRules(configSchema.parse({ role: role("Login"), ...config }));

/** A broker, and what watches over its sessions; `give` asks for a session as the handler does. */
function setUp() {
  const gone = new Set<string>();
  const parts = aBroker();
  const unreadable = { now: false };
  const given = new GivenSessions({
    broker: parts.broker,
    clock: parts.clock,
    hasCgroup: async (path) => {
      if (unreadable.now) throw new Error("EIO");
      return !gone.has(path);
    },
  });
  const give = async (rules: Rules, who: Partial<Identity>) => {
    const identity = identityOf(who);
    const decision = rules.decide(identity, "i-0abc");
    if (decision.kind !== "role") throw new Error(decision.reason);
    const outcome = await parts.broker.get(decision.request);
    if (outcome.kind !== "session") throw new Error(outcome.kind);
    const decided = { identity, decision, instanceId: "i-0abc", namedGroups: new Set<string>() };
    given.note({ decided, accessKeyId: outcome.session.accessKeyId });
    return decision.request;
  };
  const dropped = () =>
    parts.events.flatMap((event) =>
      event.type === "dropped" ? [[event.request.sessionName, event.reason, event.accessKeyId]] : [],
    );
  return { ...parts, given, give, gone, unreadable, dropped };
}

describe("the session of a Slurm job", () => {
  test("is forgotten soon after the job's cgroup is gone, and no other's is", async () => {
    const { clock, broker, give, gone, dropped } = setUp();
    const rules = rulesOf({ sessionName: "{user}-{slurmJobId}", rules: JOBS });
    const first = await give(rules, inJob(12));
    const second = await give(rules, inJob(13));
    const outside = await give(rules, {});
    await clock.advance(20 * SECOND);
    expect(dropped()).toEqual([]);
    gone.add("/system.slice/slurmstepd.scope/job_12");
    await clock.advance(20 * SECOND);
    expect(dropped()).toEqual([["alice-12", "job-ended", "ASIA1"]]);
    expect(
      [broker.peek(first), broker.peek(second), broker.peek(outside)].map((end) => end !== null),
    ).toEqual([false, true, true]);
  });
  test("is forgotten where the cgroup has the job's SLUID as well", async () => {
    const { clock, give, gone, dropped } = setUp();
    const job = "/system.slice/slurmstepd.scope/s62DM8BYG18900";
    await give(rulesOf({ sessionName: "{user}-{slurmJobId}", rules: JOBS }), {
      cgroup: `${job}/step_0/user/task_0`,
      slurmJobId: "12",
    });
    gone.add(job);
    await clock.advance(20 * SECOND);
    expect(dropped()).toEqual([["alice-12", "job-ended", "ASIA1"]]);
  });
  test("is never renewed afterwards", async () => {
    const { clock, sts, give, gone } = setUp();
    await give(rulesOf({ sessionName: "{slurmJobId}x", rules: JOBS }), inJob(12));
    gone.add("/system.slice/slurmstepd.scope/job_12");
    await clock.advance(3_600 * SECOND);
    expect(sts.calls).toBe(1);
  });
  test("is forgotten again where it was given again by the same decision", async () => {
    const { clock, broker, given, gone, dropped } = setUp();
    const identity = identityOf(inJob(12));
    const decision = rulesOf({ rules: JOBS }).decide(identity, "i-0abc");
    if (decision.kind !== "role") throw new Error(decision.reason);
    const decided = { identity, decision, namedGroups: new Set<string>() };
    for (const times of [1, 2]) {
      gone.clear();
      const outcome = await broker.get(decision.request);
      if (outcome.kind !== "session") throw new Error(outcome.kind);
      given.note({ decided, accessKeyId: outcome.session.accessKeyId });
      gone.add("/system.slice/slurmstepd.scope/job_12");
      await clock.advance(20 * SECOND);
      expect(dropped()).toHaveLength(times);
    }
  });
  test("that several jobs share stays until the last of them has ended", async () => {
    const { clock, give, gone, dropped } = setUp();
    const rules = rulesOf({ sessionName: "{user}", rules: JOBS });
    await give(rules, inJob(12));
    await give(rules, inJob(13));
    gone.add("/system.slice/slurmstepd.scope/job_12");
    await clock.advance(20 * SECOND);
    expect(dropped()).toEqual([]);
    gone.add("/system.slice/slurmstepd.scope/job_13");
    await clock.advance(20 * SECOND);
    expect(dropped()).toEqual([["alice", "job-ended", "ASIA1"]]);
  });
  test("stays where nobody can tell whether the cgroup is there", async () => {
    const { clock, give, gone, unreadable, dropped } = setUp();
    await give(rulesOf({ sessionName: "{slurmJobId}x", rules: JOBS }), inJob(12));
    gone.add("/system.slice/slurmstepd.scope/job_12");
    unreadable.now = true;
    await clock.advance(20 * SECOND);
    expect(dropped()).toEqual([]);
    unreadable.now = false;
    await clock.advance(20 * SECOND);
    expect(dropped()).toHaveLength(1);
  });
  test("is one only where the rule asks for a job or a text names it", async () => {
    const { clock, give, gone, dropped } = setUp();
    await give(rulesOf({ sessionName: "{user}" }), inJob(12));
    gone.add("/system.slice/slurmstepd.scope/job_12");
    await clock.advance(20 * SECOND);
    expect(dropped()).toEqual([]);
  });
});

describe("when new rules hold, a session", () => {
  const before = rulesOf({ sessionName: "{user}" });
  test.each([
    [
      "is forgotten that its caller has no more",
      { rules: [{ name: "no", match: { user: "alice" }, role: "none" }] },
      1,
    ],
    ["is forgotten in whose place there is another", { sessionName: "{uid}" }, 1],
    ["stays that is the same", { sessionName: "{user}", rules: JOBS }, 0],
  ])("%s", async (_, config, count) => {
    const { given, broker, give, dropped } = setUp();
    const request = await give(before, {});
    given.follow(rulesOf(config));
    expect(dropped()).toHaveLength(count);
    expect(broker.peek(request) === null).toBe(count === 1);
  });
});

test("a session that was forgotten while it was asked for is given to nobody", async () => {
  const { broker, sts, clock, events } = aBroker();
  sts.manual = true;
  const request = { ...(await setUp().give(rulesOf({}), {})) };
  const waiting = broker.get(request);
  await clock.advance(10);
  broker.forget(request, "withdrawn");
  expect((await waiting).kind).toBe("unavailable");
  sts.open[0]?.answer();
  await clock.advance(10);
  expect(broker.peek(request)).toBeNull();
  expect(broker.counts()).toMatchObject({ sessions: 0, entries: 0, inFlight: 0 });
  expect(events.filter(({ type }) => type === "obtained")).toEqual([]);
  expect(clock.pending).toBe(0);
});

test("a session that the former rules gave is forgotten where STS answers after new ones were loaded, and no other's is", async () => {
  const { given, broker, give, dropped } = setUp();
  const before = rulesOf({});
  const after = rulesOf({ rules: [{ name: "alice", match: { user: "alice" }, role: role("Other") }] });
  const bobs = await give(before, { user: "bob" });
  given.follow(after);
  const late = await give(before, { user: "alice" });
  expect([broker.peek(late), broker.peek(bobs)].map((end) => end !== null)).toEqual([false, true]);
  expect(dropped().map(([, reason]) => reason)).toEqual(["withdrawn"]);
  const anew = await give(after, { user: "alice" });
  expect(broker.peek(anew)).not.toBeNull();
  expect(dropped()).toHaveLength(1);
});

test("a session that two have, and that ended with the job of one, is noted again for the other, and can be withdrawn", async () => {
  const { given, broker, clock, give, gone, dropped } = setUp();
  const member = { name: "group", match: { group: "lab" }, role: role("Job") };
  const rules = rulesOf({ sessionName: "{user}", rules: [...JOBS, member] });
  // The same decision each time, as the handler has it for an identity that is in memory.
  const identity = identityOf({ groups: ["lab"] });
  const decision = rules.decide(identity, null);
  if (decision.kind !== "role") throw new Error(decision.reason);
  const decided = { identity, decision, namedGroups: new Set<string>() };
  const ask = async () => {
    const outcome = await broker.get(decision.request);
    if (outcome.kind !== "session") throw new Error(outcome.kind);
    given.note({ decided, accessKeyId: outcome.session.accessKeyId });
  };
  await ask();
  await give(rules, { ...inJob(12), groups: ["lab"] });
  gone.add("/system.slice/slurmstepd.scope/job_12");
  await clock.advance(20 * SECOND);
  await ask();
  given.follow(rulesOf({}));
  expect(dropped().map(([, reason]) => reason)).toEqual(["job-ended", "withdrawn"]);
});
