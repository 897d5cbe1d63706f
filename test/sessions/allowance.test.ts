import { describe, expect, test } from "bun:test";
import { credentialsDocument } from "../../src/imds/documents.ts";
import { CallAllowance, LONGEST_WAIT_MS } from "../../src/sessions/allowance.ts";
import { aBroker, aRequest, HOUR, idOf, MINUTE, passing, SECOND } from "./support.ts";

/** Wide for the node and narrow for a user, unless a test wants it otherwise. */
const allowance = (user = { perSecond: 1, burst: 3 }, node = { perSecond: 100, burst: 100 }) =>
  new CallAllowance({ user, node });

const sessionOf = (name: string | number) => aRequest({ sessionName: `${name}@i-0123` });

describe("CallAllowance", () => {
  test("forgets owners whose buckets are full again", () => {
    const calls = allowance();
    for (let uid = 0; uid < 1_000; uid++) calls.ask(uid, uid * MINUTE);
    expect(calls.size).toBe(1);
  });
});

describe("AssumeRole calls of one user", () => {
  test("65,536 sessions are a burst of calls and then one in a second; the others are told when to come again", async () => {
    const { broker, sts, clock } = aBroker({ allowance: allowance() });
    const asked = Array.from({ length: 1_000 }, (_, i) => broker.get(sessionOf(i), "alice"));
    await clock.advance(0);
    expect(sts.calls).toBe(3);
    await clock.advance(60 * SECOND);
    const outcomes = await Promise.all(asked);
    // What was given out in advance, and nothing that nobody asks for any more.
    expect(sts.calls).toBeLessThanOrEqual(3 + LONGEST_WAIT_MS / SECOND + 1);
    const refused = outcomes.filter(({ kind }) => kind === "unavailable");
    expect(refused.length).toBeGreaterThan(900);
    for (const outcome of refused) {
      const { status, retryAfterSeconds } = credentialsDocument(outcome);
      expect([status, (retryAfterSeconds ?? 0) >= 1]).toEqual([503, true]);
    }
  });

  test("cost bob nothing", async () => {
    const { broker, clock } = aBroker({ allowance: allowance() });
    for (let i = 0; i < 1_000; i++) void broker.get(sessionOf(i), "alice");
    expect(idOf(await broker.get(sessionOf("bob"), 2002))).toStartWith("ASIA");
    await clock.advance(0);
  });

  test("a call that is due within the caller's wait is waited for", async () => {
    const { broker, clock } = aBroker({ allowance: allowance({ perSecond: 1, burst: 1 }) });
    await broker.get(sessionOf(1), "alice");
    const second = broker.get(sessionOf(2), "alice");
    await clock.advance(1 * SECOND);
    expect(idOf(await second)).toBe("ASIA2");
  });

  test("a thousand callers of one session take one token", async () => {
    const { broker, sts, clock } = aBroker({ allowance: allowance({ perSecond: 0.01, burst: 2 }) });
    const callers = Array.from({ length: 1_000 }, () => broker.get(sessionOf("job"), "alice"));
    await clock.advance(0);
    await Promise.all(callers);
    expect(idOf(await broker.get(sessionOf("other"), "alice"))).toBe("ASIA2");
    expect(sts.calls).toBe(2);
  });

  test("a thousand callers of one session that has to wait take one token too", async () => {
    const { broker, sts, clock } = aBroker({ allowance: allowance({ perSecond: 1, burst: 1 }) });
    await broker.get(sessionOf(1), "alice");
    const callers = Array.from({ length: 1_000 }, () => broker.get(sessionOf("job"), "alice"));
    await clock.advance(2 * SECOND);
    expect(new Set((await Promise.all(callers)).map(idOf))).toEqual(new Set(["ASIA2"]));
    expect(sts.calls).toBe(2);
  });

  test("sessions that are there are served, and refreshed at their time, however empty the buckets are", async () => {
    const { broker, sts, clock } = aBroker({
      allowance: allowance({ perSecond: 0.5, burst: 2 }, { perSecond: 0.5, burst: 4 }),
    });
    await broker.get(sessionOf("alice"), "alice");
    await broker.get(sessionOf("bob"), "bob");
    for (let minute = 0; minute < 120; minute++) {
      for (let i = 0; i < 100; i++) void broker.get(sessionOf(`${minute}-${i}`), "alice");
      const [alice, bob] = [broker.get(sessionOf("alice"), "alice"), broker.get(sessionOf("bob"), "bob")];
      expect([(await alice).kind, (await bob).kind]).toEqual(["session", "session"]);
      await clock.advance(1 * MINUTE);
    }
    const refreshes = (name: string) =>
      sts.requests.filter(({ sessionName }) => sessionName === `${name}@i-0123`).length;
    // Half of an hour's life each.
    expect(refreshes("bob")).toBeGreaterThanOrEqual(4);
    expect(refreshes("alice")).toBeGreaterThanOrEqual(4);
    // Two hours at one call in two seconds, a burst and the refreshes.
    expect(sts.calls).toBeLessThanOrEqual((2 * HOUR) / SECOND / 2 + 4 + 10);
  });

  test("calls that fail take tokens as well", async () => {
    const { broker, sts, clock } = aBroker({ allowance: allowance({ perSecond: 0.1, burst: 3 }) });
    sts.failing = () => passing();
    for (let i = 0; i < 10; i++) void broker.get(sessionOf(i), "alice");
    await clock.advance(1 * MINUTE);
    expect(sts.calls).toBeLessThanOrEqual(3 + 6 + 1);
  });
});

describe("AssumeRole calls of the node", () => {
  test("all users together have one limit, and are served in the order in which they came", async () => {
    const { broker, sts, clock } = aBroker({
      allowance: allowance({ perSecond: 1, burst: 10 }, { perSecond: 2, burst: 5 }),
    });
    for (let uid = 0; uid < 100; uid++) void broker.get(sessionOf(uid), uid);
    await clock.advance(0);
    expect(sts.calls).toBe(5);
    await clock.advance(5 * SECOND);
    expect(sts.calls).toBe(15);
    expect(sts.requests.map(({ sessionName }) => Number(sessionName.split("@")[0]))).toEqual(
      Array.from({ length: 15 }, (_, uid) => uid),
    );
  });

  test("ten accounts with subordinate uids, asking for sessions without end, keep no other user's first session waiting", async () => {
    const { broker, sts, clock } = aBroker({
      allowance: allowance({ perSecond: 2, burst: 200 }, { perSecond: 20, burst: 500 }),
    });
    let asked = 0;
    const flood = () => {
      for (let account = 0; account < 10; account++)
        for (let i = 0; i < 40; i++)
          void broker.get(sessionOf(`${account}-${asked++}`), `account ${account}`);
    };
    for (let second = 0; second < 120; second++) {
      flood();
      await clock.advance(1 * SECOND);
      if (second % 10 !== 0) continue;
      // Each has no session yet.
      for (let user = 0; user < 5; user++) {
        const name = `user ${second}-${user}`;
        expect(idOf(await broker.get(sessionOf(name), name))).toStartWith("ASIA");
      }
    }
    expect(sts.calls).toBeLessThanOrEqual(500 + 20 * 120 + 20);
  });

  test("what has to wait is an event, without a call", async () => {
    const { broker, events } = aBroker({ allowance: allowance({ perSecond: 0.01, burst: 1 }) });
    await broker.get(sessionOf(1), "alice");
    expect(idOf(await broker.get(sessionOf(2), "alice"))).toBe("unavailable");
    expect(events.map(({ type }) => type)).toEqual(["obtained", "postponed"]);
  });
});
