import { describe, expect, test } from "bun:test";
import { CallAllowance } from "../../src/sessions/allowance.ts";
import type { SessionOutcome } from "../../src/sessions/types.ts";
import { NO_SESSIONS } from "../telemetry/metrics-support.ts";
import { aBroker, aRequest, DAY, denied, HOUR, idOf, MINUTE, passing, SECOND } from "./support.ts";

/** Minutes that an outcome's session has left, as a client is told. */
function minutesLeft(outcome: SessionOutcome, nowMs: number): number {
  return outcome.kind === "session" ? (outcome.publishedExpiryMs - nowMs) / MINUTE : Number.NaN;
}

describe("prepare()", () => {
  test("has the session there when it is asked for", async () => {
    const { broker, sts, clock } = aBroker();
    broker.prepare(aRequest());
    await clock.advance(0);
    expect(sts.calls).toBe(1);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
    expect(sts.calls).toBe(1);
  });

  test("makes nobody wait, however often it is called while STS does not answer", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    broker.prepare(aRequest());
    await clock.advance(0);
    const timers = clock.pending;
    for (let i = 0; i < 1_000; i++) broker.prepare(aRequest());
    await clock.advance(0);
    expect([sts.calls, clock.pending - timers]).toEqual([1, 0]);
  });
});

describe("prepare() tells of the first attempt", () => {
  test("until it has ended, and each who waits leaves then or when their time is over", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    const first = broker.prepare(aRequest());
    await clock.advance(0);
    const timers = clock.pending;
    let [short, long] = [false, false];
    void first?.wait(200)?.then(() => {
      short = true;
    });
    void first?.wait(450)?.then(() => {
      long = true;
    });
    await clock.advance(200);
    expect([short, long]).toEqual([true, false]);
    sts.open[0]?.answer();
    await clock.advance(0);
    expect([short, long]).toEqual([true, true]);
    expect(first?.wait(200)).toBeNull();
    // What is left is the one timer of all sessions, in place of the attempt's own limit.
    expect(clock.pending).toBe(timers);
  });

  test("never where a session is held, refreshed, denied, or where the attempt before failed", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    expect(broker.prepare(aRequest())).toBeNull();
    sts.manual = true;
    await clock.advance(30 * MINUTE + SECOND);
    expect(broker.counts().inFlight).toBe(1);
    expect(broker.prepare(aRequest())).toBeNull();

    sts.manual = false;
    sts.failing = () => denied();
    const bob = aRequest({ sessionName: "bob" });
    await broker.get(bob);
    expect(broker.prepare(bob)).toBeNull();
    sts.failing = () => passing();
    const carol = aRequest({ sessionName: "carol" });
    await broker.get(carol);
    expect(broker.prepare(carol)).toBeNull();
  });

  test("is null when the broker has stopped", () => {
    const { broker } = aBroker();
    broker.stop();
    expect([broker.prepare(aRequest()), broker.prepareEarly(aRequest())]).toEqual([null, null]);
  });
});

describe("getAtHand()", () => {
  test("gives the session that get() gives, where it is fresh", async () => {
    const { broker, sts } = aBroker();
    const got = await broker.get(aRequest());
    // Another object with the same fields is the same request.
    expect(broker.getAtHand(aRequest())).toEqual(got);
    expect(sts.calls).toBe(1);
  });

  test("gives none that has never been asked for, is low, has ended, or was denied; and asks STS for none of them", async () => {
    const { broker, sts, clock } = aBroker();
    expect(broker.getAtHand(aRequest())).toBeNull();
    await broker.get(aRequest());
    sts.failing = () => passing();
    await clock.advance(45 * MINUTE);
    const calls = sts.calls;
    expect(broker.peek(aRequest())).not.toBeNull();
    expect(broker.getAtHand(aRequest())).toBeNull();
    expect(sts.calls).toBe(calls);
    await clock.advance(20 * MINUTE);
    expect(broker.getAtHand(aRequest())).toBeNull();
    sts.failing = () => denied();
    const bob = aRequest({ sessionName: "bob" });
    await broker.get(bob);
    expect(broker.getAtHand(bob)).toBeNull();
  });

  test("counts as asking, so that the session is renewed", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    await clock.advance(30 * MINUTE + SECOND);
    expect(sts.calls).toBe(2);
    // Nobody has asked since the refresh: the next one is missed, and made when somebody asks.
    expect(broker.getAtHand(aRequest())).not.toBeNull();
    await clock.advance(30 * MINUTE + SECOND);
    expect(sts.calls).toBe(3);
  });

  test("makes it the most recently used one: others are evicted for a new one", async () => {
    const { broker } = aBroker({ maxEntries: 2 });
    const [first, second, third] = ["a1", "b2", "c3"].map((sessionName) => aRequest({ sessionName }));
    if (first === undefined || second === undefined || third === undefined) throw new Error("three requests");
    await broker.get(first);
    await broker.get(second);
    expect(broker.getAtHand(first)).not.toBeNull();
    await broker.get(third);
    expect([first, second, third].map((one) => broker.peek(one) !== null)).toEqual([true, false, true]);
  });

  test("is null when the broker has stopped", async () => {
    const { broker } = aBroker();
    await broker.get(aRequest());
    broker.stop();
    expect(broker.getAtHand(aRequest())).toBeNull();
  });
});

describe("prepareEarly()", () => {
  test("has the session there when it is asked for", async () => {
    const { broker, sts, clock, events } = aBroker();
    expect(broker.prepareEarly(aRequest())).not.toBeNull();
    await clock.advance(0);
    expect(events).toMatchObject([{ type: "obtained", reason: "early" }]);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
    expect(sts.calls).toBe(1);
  });

  test("joins an attempt that is under way, and leaves what is held, denied or waited for alone", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    broker.prepare(aRequest());
    expect(broker.prepareEarly(aRequest())).not.toBeNull();
    await clock.advance(0);
    expect(sts.calls).toBe(1);
    sts.open[0]?.fail(denied());
    await clock.advance(0);
    expect(broker.prepareEarly(aRequest())).toBeNull();
    await clock.advance(0);
    expect(sts.calls).toBe(1);
  });

  for (const [name, failing] of [
    ["made", null],
    ["denied", denied],
    ["failing", passing],
  ] as const) {
    test(`asked each second for a day by who wants nothing but metadata, makes a call each 59 minutes: ${name}`, async () => {
      const { broker, sts, clock } = aBroker();
      sts.failing = failing;
      for (let seconds = 0; seconds < 24 * 3600; seconds += 30) {
        broker.prepareEarly(aRequest());
        await clock.advance(30 * SECOND);
      }
      expect(sts.calls).toBe(25);
    });
  }

  test("a denial of what nobody has asked for is remembered for 5 s; who asks then asks STS", async () => {
    const { broker, sts, clock, events } = aBroker();
    sts.failing = () => denied();
    broker.prepareEarly(aRequest());
    await clock.advance(5 * SECOND - 1);
    expect(events).toMatchObject([{ type: "denied", reason: "early", againInMs: 5 * SECOND }]);
    expect(broker.counts().entries).toBe(1);
    await clock.advance(1);
    expect([broker.counts().entries, clock.pending]).toEqual([0, 0]);
    sts.failing = null;
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA2");
  });

  test("a denial that somebody asks for within these 5 s is remembered for a minute", async () => {
    const { broker, sts, clock } = aBroker();
    sts.failing = () => denied();
    broker.prepareEarly(aRequest());
    await clock.advance(4 * SECOND);
    for (let seconds = 0; seconds < 60; seconds += 10) {
      expect(idOf(await broker.get(aRequest()))).toBe("denied");
      await clock.advance(10 * SECOND - 1);
    }
    expect(sts.calls).toBe(1);
    await clock.advance(6);
    await broker.get(aRequest());
    expect(sts.calls).toBe(2);
  });

  test("a denial of what somebody has asked for meanwhile is remembered", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    broker.prepareEarly(aRequest());
    const asked = broker.get(aRequest());
    await clock.advance(0);
    sts.open[0]?.fail(denied());
    expect(idOf(await asked)).toBe("denied");
    expect(idOf(await broker.get(aRequest()))).toBe("denied");
    expect(sts.calls).toBe(1);
  });

  test("takes nothing of what its owner may ask for, and one call of the node's", async () => {
    const allowance = new CallAllowance({
      user: { perSecond: 0.01, burst: 1 },
      node: { perSecond: 0.01, burst: 3 },
    });
    const { broker, sts, clock } = aBroker({ allowance });
    broker.prepareEarly(aRequest({ sessionName: "a1" }), 2001);
    broker.prepareEarly(aRequest({ sessionName: "a2" }), 2001);
    await clock.advance(0);
    expect(sts.calls).toBe(2);
    expect(idOf(await broker.get(aRequest({ sessionName: "a3" }), 2001))).toBe("ASIA3");
    // The node has none left: nothing is begun that nobody asks for.
    expect(broker.prepareEarly(aRequest({ sessionName: "b1" }), 2002)).toBeNull();
    await clock.advance(0);
    expect([sts.calls, broker.counts().entries]).toEqual([3, 3]);
  });

  test("what it began is refreshed and tried again once somebody asks", async () => {
    const { broker, sts, clock } = aBroker();
    broker.prepareEarly(aRequest());
    await clock.advance(10 * MINUTE);
    await broker.get(aRequest());
    await clock.advance(21 * MINUTE);
    expect(sts.calls).toBe(2);

    sts.failing = () => passing();
    const bob = aRequest({ sessionName: "bob" });
    broker.prepareEarly(bob);
    await clock.advance(0);
    broker.prepare(bob);
    sts.failing = null;
    await clock.advance(2 * SECOND);
    expect(idOf(await broker.get(bob))).toStartWith("ASIA");
  });

  test("does not count among what its owner asks for: with 16 begun, the next is begun when it is asked for", async () => {
    const { broker, sts, clock } = aBroker();
    for (let n = 0; n < 20; n++) broker.prepareEarly(aRequest({ sessionName: `s${n}` }), 2001);
    await clock.advance(0);
    expect(sts.calls).toBe(16);
    expect(broker.prepare(aRequest({ sessionName: "s19" }), 2001)).not.toBeNull();
    await clock.advance(0);
    expect(sts.calls).toBe(17);
  });
});

describe("get()", () => {
  test("100 callers make one AssumeRole", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    const callers = Array.from({ length: 100 }, () => broker.get(aRequest(), 1000));
    await clock.advance(0);
    expect(sts.calls).toBe(1);
    sts.open[0]?.answer();
    expect(new Set((await Promise.all(callers)).map(idOf))).toEqual(new Set(["ASIA1"]));
    expect(sts.calls).toBe(1);
  });

  test("equal requests in another order of tags share a session, others do not", async () => {
    const { broker, sts } = aBroker();
    await broker.get(
      aRequest({
        tags: [
          ["a", "1"],
          ["b", "2"],
        ],
      }),
    );
    await broker.get(
      aRequest({
        tags: [
          ["b", "2"],
          ["a", "1"],
        ],
      }),
    );
    expect(sts.calls).toBe(1);
    await broker.get(aRequest({ sessionName: "bob@i-0123" }));
    await broker.get(aRequest({ externalId: "x" }));
    expect(sts.calls).toBe(3);
  });

  test("the first caller who leaves spoils nothing", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    const first = broker.get(aRequest());
    await clock.advance(2 * SECOND);
    const second = broker.get(aRequest());
    await clock.advance(1 * SECOND);
    // The first has waited for its 3 seconds and gone; the attempt is still the same one.
    expect(idOf(await first)).toBe("unavailable");
    expect(sts.open[0]?.signal.aborted).toBe(false);
    sts.open[0]?.answer();
    expect(idOf(await second)).toBe("ASIA1");
    expect(sts.calls).toBe(1);
  });

  test("answers within waitMs, 3 s by default, and the next asker gets what came later", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    let outcome: SessionOutcome | null = null;
    void broker.get(aRequest()).then((found) => {
      outcome = found;
    });
    await clock.advance(3 * SECOND - 1);
    expect(outcome).toBeNull();
    await clock.advance(1);
    expect(outcome).toMatchObject({ kind: "unavailable" });
    sts.open[0]?.answer();
    await clock.advance(0);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
    expect(sts.calls).toBe(1);
  });

  test("publishes the end 60 s early", async () => {
    const { broker, clock } = aBroker();
    const outcome = await broker.get(aRequest());
    expect(minutesLeft(outcome, clock.now())).toBe(59);
  });

  test("never serves a session beyond its published end", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    sts.failing = () => passing();
    await clock.advance(59 * MINUTE - 1);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
    await clock.advance(1);
    const late = broker.get(aRequest());
    await clock.advance(5 * SECOND);
    expect(idOf(await late)).toBe("unavailable");
  });

  test("a session without life or without a date is never served", async () => {
    for (const expiresInMs of [0, 60 * SECOND, -DAY, Number.NaN]) {
      const { broker, sts, clock, events } = aBroker();
      sts.assumeRole = async () => ({
        accessKeyId: "ASIA1",
        secretAccessKey: "s",
        sessionToken: "t",
        expiresAtMs: clock.now() + expiresInMs,
        obtainedAtMs: clock.now(),
      });
      expect(idOf(await broker.get(aRequest()))).toBe("unavailable");
      expect(events).toMatchObject([{ type: "failed", code: "clock" }]);
    }
  });
});

describe("refresh", () => {
  test("comes at half life, and nobody waits for it", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    await clock.advance(30 * MINUTE - 1);
    expect(sts.calls).toBe(1);
    sts.manual = true;
    await clock.advance(1);
    expect(sts.calls).toBe(2);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
    sts.open[0]?.answer();
    await clock.advance(0);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA2");
  });

  test("comes up to three quarters of that earlier at first, and up to a fifth later, by chance", async () => {
    const { broker, sts, clock } = aBroker({ random: () => 0.999 });
    await broker.get(aRequest());
    await clock.advance(7 * MINUTE);
    expect(sts.calls).toBe(1);
    await clock.advance(1 * MINUTE);
    expect(sts.calls).toBe(2);
    await broker.get(aRequest());
    await clock.advance(23 * MINUTE);
    expect(sts.calls).toBe(2);
    await clock.advance(2 * MINUTE);
    expect(sts.calls).toBe(3);
  });

  test("is put off while STS throttles, until there is as little life as is served without waiting", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    sts.failing = () => passing();
    await clock.advance(38 * MINUTE);
    // 30 s is the last retry of one that is not put off: there would be more than twenty by now.
    expect(sts.calls).toBeLessThan(12);
    await clock.advance(4 * MINUTE);
    sts.failing = null;
    await clock.advance(MINUTE);
    expect(minutesLeft(await broker.get(aRequest()), clock.now())).toBeGreaterThan(57);
  });

  test("one user who asks each minute never gets less than 20 minutes", async () => {
    const { broker, clock } = aBroker();
    for (let minute = 0; minute < 600; minute++) {
      const outcome = await broker.get(aRequest());
      expect(minutesLeft(outcome, clock.now())).toBeGreaterThanOrEqual(20);
      await clock.advance(MINUTE);
    }
  });

  test("stops when nobody has asked since the last one", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    await clock.advance(10 * HOUR);
    // The one that was asked for, and the refresh of it.
    expect(sts.calls).toBe(2);
    expect(broker.counts()).toEqual(NO_SESSIONS);
    expect(clock.pending).toBe(0);
  });

  test("that was left out is made up for in the background by the next asker", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    await clock.advance(61 * MINUTE);
    expect(sts.calls).toBe(2);
    sts.manual = true;
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA2");
    expect(sts.calls).toBe(3);
  });

  test("under 20 minutes a caller waits for it", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    // Refreshed at 30 minutes, then left alone: 19 minutes of the second session are left.
    await clock.advance(70 * MINUTE);
    sts.manual = true;
    let outcome: SessionOutcome | null = null;
    void broker.get(aRequest()).then((found) => {
      outcome = found;
    });
    await clock.advance(399);
    expect(outcome).toBeNull();
    sts.open[0]?.answer();
    await clock.advance(0);
    expect(outcome).toMatchObject({ kind: "session", session: { accessKeyId: "ASIA3" } });
  });

  test("under 20 minutes a caller gets the old one when STS takes longer than betterWaitMs", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    await clock.advance(70 * MINUTE);
    sts.manual = true;
    const outcome = broker.get(aRequest());
    await clock.advance(400);
    expect(idOf(await outcome)).toBe("ASIA2");
  });

  test("keeps serving while STS is away, at once, and takes the new one when it is back", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    sts.failing = () => passing();
    await clock.advance(45 * MINUTE);
    for (let minute = 45; minute < 59; minute++) {
      // No advance between asking and answering: it does not wait.
      expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
      await clock.advance(MINUTE - 1);
    }
    sts.failing = null;
    await clock.advance(MINUTE);
    expect(idOf(await broker.get(aRequest()))).not.toBe("ASIA1");
  });

  test("that failed once is not waited for again: an STS that hangs then delays nobody", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    await clock.advance(70 * MINUTE);
    sts.failing = () => passing();
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA2");
    sts.failing = null;
    sts.manual = true;
    await clock.advance(SECOND);
    expect(sts.open.length).toBe(1);
    // No advance between asking and answering: it does not wait.
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA2");
  });

  test("goes on with backoff until the session ends, though nobody asks", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    sts.failing = () => passing();
    await clock.advance(58 * MINUTE);
    const before = sts.calls;
    sts.failing = null;
    await clock.advance(MINUTE);
    expect(sts.calls).toBe(before + 1);
    expect(idOf(await broker.get(aRequest()))).toBe(`ASIA${sts.calls}`);
  });

  test("of a session of 900 s, which is under 20 minutes from the start, does not loop", async () => {
    const { broker, sts, clock } = aBroker();
    const short = aRequest({ durationSeconds: 900 });
    for (let second = 0; second < 3600; second += 10) {
      expect(minutesLeft(await broker.get(short), clock.now())).toBeGreaterThan(5);
      await clock.advance(10 * SECOND);
    }
    // One at the start and one each 450 s.
    expect(sts.calls).toBe(1 + 3600 / 450);
  });
});

describe("a denial", () => {
  test("is remembered a minute, then asked again", async () => {
    const { broker, sts, clock } = aBroker();
    sts.failing = denied;
    for (let second = 0; second < 60; second++) {
      expect(await broker.get(aRequest())).toEqual({ kind: "denied", message: "STS refuses" });
      await clock.advance(second < 59 ? SECOND : SECOND - 1);
    }
    expect(sts.calls).toBe(1);
    sts.failing = null;
    await clock.advance(1);
    expect(sts.calls).toBe(1);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA2");
  });

  test("of a crowd is asked about once", async () => {
    const { broker, sts } = aBroker();
    sts.failing = denied;
    const outcomes = await Promise.all(Array.from({ length: 100 }, () => broker.get(aRequest())));
    expect(new Set(outcomes.map(idOf))).toEqual(new Set(["denied"]));
    expect(sts.calls).toBe(1);
  });

  test("is forgotten when nobody asks again", async () => {
    const { broker, sts, clock } = aBroker();
    sts.failing = denied;
    await broker.get(aRequest());
    await clock.advance(MINUTE);
    expect(broker.counts().entries).toBe(0);
    expect(clock.pending).toBe(0);
  });

  test("of one request says nothing of another", async () => {
    const { broker, sts } = aBroker();
    sts.failing = denied;
    await broker.get(aRequest());
    sts.failing = null;
    expect(idOf(await broker.get(aRequest({ sessionName: "bob@i-0123" })))).toBe("ASIA2");
  });

  test("on refresh leaves the valid session until its end, is asked about each minute, and is told", async () => {
    const { broker, sts, clock, events } = aBroker();
    await broker.get(aRequest());
    sts.failing = denied;
    await clock.advance(58 * MINUTE);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
    expect(events.at(-1)).toMatchObject({ type: "denied", reason: "refresh", detail: "for the log" });
    // At 30 minutes and each minute to 58.
    expect(sts.calls).toBe(1 + 29);
    await clock.advance(MINUTE);
    expect(idOf(await broker.get(aRequest()))).toBe("denied");
  });
});

describe("a passing failure", () => {
  test("is told to the caller at once, and never as a denial", async () => {
    const { broker, sts } = aBroker();
    sts.failing = () => passing();
    expect(await broker.get(aRequest())).toEqual({ kind: "unavailable", message: "STS is asked too often" });
  });

  test("of a crowd of 100 is one attempt, whoever comes during the backoff", async () => {
    const { broker, sts, clock } = aBroker({ random: () => 0.999 });
    sts.failing = () => passing();
    await Promise.all(Array.from({ length: 100 }, () => broker.get(aRequest())));
    expect(sts.calls).toBe(1);
    const later = Array.from({ length: 100 }, () => broker.get(aRequest()));
    await clock.advance(900);
    expect(sts.calls).toBe(1);
    await clock.advance(100);
    expect(sts.calls).toBe(2);
    expect(new Set((await Promise.all(later)).map(idOf))).toEqual(new Set(["unavailable"]));
  });

  test("is never cached: who waits for the next attempt gets its session", async () => {
    const { broker, sts, clock } = aBroker();
    sts.failing = () => passing();
    await broker.get(aRequest());
    sts.failing = null;
    const outcome = broker.get(aRequest());
    await clock.advance(500);
    expect(idOf(await outcome)).toBe("ASIA2");
  });

  test("is retried after 1, 2, 4 … 60 s, half of it by chance", async () => {
    for (const [random, factor] of [
      [0, 0.5],
      [0.999999, 1],
    ] as const) {
      const { broker, sts, clock, events } = aBroker({ random: () => random });
      sts.failing = () => passing();
      await broker.get(aRequest());
      await clock.advance(10 * MINUTE);
      const waits = events.flatMap((event) => (event.type === "failed" ? [Math.round(event.againInMs)] : []));
      expect(waits).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60].map((s) => s * SECOND * factor));
    }
  });

  test("is retried eight times for nobody, then forgotten", async () => {
    const { broker, sts, clock } = aBroker();
    sts.failing = () => passing();
    await broker.get(aRequest());
    await clock.advance(DAY);
    expect(sts.calls).toBe(9);
    expect(broker.counts().entries).toBe(0);
    expect(clock.pending).toBe(0);
  });

  test("is retried longer for those who go on asking", async () => {
    const { broker, sts, clock } = aBroker();
    sts.failing = () => passing();
    for (let minute = 0; minute < 30; minute++) {
      void broker.get(aRequest());
      await clock.advance(MINUTE);
    }
    expect(sts.calls).toBeGreaterThan(30);
    sts.failing = null;
    await clock.advance(MINUTE);
    expect(broker.peek(aRequest())).not.toBeNull();
  });

  test("after a success, or after a denial, starts again with the shortest wait", async () => {
    for (const between of [null, denied]) {
      const { broker, sts, clock, events } = aBroker();
      sts.failing = () => passing();
      await broker.get(aRequest());
      await clock.advance(MINUTE);
      const failures = () => events.flatMap((event) => (event.type === "failed" ? [event.againInMs] : []));
      expect(failures()).toEqual([0.5, 1, 2, 4, 8, 16, 30].map((seconds) => seconds * SECOND));
      sts.failing = between;
      await clock.advance(30 * SECOND);
      expect(idOf(await broker.get(aRequest()))).toBe(between === null ? `ASIA${sts.calls}` : "denied");
      sts.failing = () => passing();
      await clock.advance(between === null ? 30 * MINUTE : MINUTE);
      if (between !== null) await broker.get(aRequest());
      expect(failures()[7]).toBe(500);
    }
  });

  test("with Retry-After waits that long, 5 minutes at most, and callers do not wait for it", async () => {
    for (const [retryAfterMs, againInMs] of [
      [20 * SECOND, 20 * SECOND],
      [DAY, 5 * MINUTE],
    ] as const) {
      const { broker, sts, clock } = aBroker();
      sts.failing = () => passing(retryAfterMs);
      await broker.get(aRequest());
      expect(idOf(await broker.get(aRequest()))).toBe("unavailable");
      await clock.advance(againInMs - 1);
      expect(sts.calls).toBe(1);
      await clock.advance(1);
      expect(sts.calls).toBe(2);
    }
  });

  test("is told within a second, which is what most SDKs wait, also while the next attempt hangs", async () => {
    const { broker, sts, clock } = aBroker();
    sts.failing = () => passing();
    await broker.get(aRequest());
    sts.failing = null;
    sts.manual = true;
    // The second attempt comes after half a second, and STS does not answer it.
    let outcome: SessionOutcome | null = null;
    void broker.get(aRequest()).then((told) => {
      outcome = told;
    });
    await clock.advance(899);
    expect([sts.calls, outcome]).toEqual([2, null]);
    await clock.advance(1);
    expect(outcome).toMatchObject({ kind: "unavailable" });
    // It goes on, and who asks next has what it gives.
    sts.open[0]?.answer();
    await clock.advance(0);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA2");
  });

  test("of an unforeseen kind does not show its text", async () => {
    const { broker, sts, events } = aBroker();
    sts.failing = () => new TypeError("token-of-1");
    const outcome = await broker.get(aRequest());
    expect(outcome.kind).toBe("unavailable");
    expect(JSON.stringify([outcome, events])).not.toContain("token-of-1");
    expect(events).toMatchObject([{ type: "failed", code: "unknown" }]);
  });

  test("an STS that never answers is given up after attemptMs, and its late answer changes nothing", async () => {
    const { broker, sts, clock, events } = aBroker();
    sts.manual = true;
    void broker.get(aRequest());
    await clock.advance(10 * SECOND);
    expect(sts.open[0]?.signal.aborted).toBe(true);
    expect(events).toMatchObject([{ type: "failed", code: "timeout" }]);
    sts.open[0]?.answer();
    await clock.advance(0);
    expect(broker.peek(aRequest())).toBeNull();
    await clock.advance(500);
    expect(sts.calls).toBe(2);
    sts.open[1]?.answer();
    await clock.advance(0);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA2");
  });
});

describe("a clock that jumps", () => {
  test("a day ahead: nothing that looks ended is served; when it is back, all is as before", async () => {
    const { broker, sts, clock, jump, events } = aBroker();
    await broker.get(aRequest());
    jump(DAY);
    expect(idOf(await broker.get(aRequest()))).toBe("unavailable");
    expect(events.at(-1)).toMatchObject({ type: "failed", code: "clock" });
    const calls = sts.calls;
    await clock.advance(30 * SECOND);
    expect(sts.calls - calls).toBeLessThan(8);
    jump(-DAY);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
    await clock.advance(2 * MINUTE);
    expect(minutesLeft(await broker.get(aRequest()), clock.now())).toBeGreaterThan(57);
  });

  test("a day back: a session is refreshed before anybody is told a false end, and given up on time", async () => {
    const { broker, sts, clock, jump } = aBroker();
    await broker.get(aRequest());
    jump(-DAY);
    const outcome = await broker.get(aRequest());
    expect(idOf(outcome)).toBe("ASIA2");
    expect(minutesLeft(outcome, clock.now())).toBe(59);
    sts.failing = () => passing();
    await clock.advance(59 * MINUTE);
    const late = broker.get(aRequest());
    await clock.advance(5 * SECOND);
    expect(idOf(await late)).toBe("unavailable");
  });

  test("a day back while STS is away: the end that is told is never further off than a session's life", async () => {
    const { broker, sts, clock, jump } = aBroker();
    await broker.get(aRequest());
    sts.failing = () => passing();
    jump(-DAY);
    const outcome = await broker.get(aRequest());
    expect(idOf(outcome)).toBe("ASIA1");
    expect(minutesLeft(outcome, clock.now())).toBe(59);
  });

  test("a second back and forth, as NTP does, is nothing", async () => {
    const { broker, sts, jump } = aBroker();
    await broker.get(aRequest());
    for (const ms of [-SECOND, SECOND, 30 * SECOND, -59 * SECOND]) {
      jump(ms);
      expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
    }
    expect(sts.calls).toBe(1);
  });

  test("in either direction never keeps a refresh from coming", async () => {
    for (const ms of [DAY, -DAY]) {
      const { broker, sts, clock, jump } = aBroker();
      await broker.get(aRequest());
      jump(ms);
      await clock.advance(30 * MINUTE);
      expect(sts.calls).toBeGreaterThan(1);
      jump(-ms);
      await clock.advance(2 * MINUTE);
      expect(minutesLeft(await broker.get(aRequest()), clock.now())).toBeGreaterThan(20);
    }
  });

  test("a node that is 45 minutes ahead gets what life it can see, without asking at each call", async () => {
    const { broker, sts, clock, jump } = aBroker();
    jump(45 * MINUTE);
    for (let second = 0; second < 3600; second += 10) {
      expect(idOf(await broker.get(aRequest()))).toStartWith("ASIA");
      await clock.advance(10 * SECOND);
    }
    expect(sts.calls).toBeLessThan(10);
  });
});

describe("a machine that sleeps", () => {
  test("less than a session's life: it is served at once", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    clock.sleep(20 * MINUTE);
    const outcome = await broker.get(aRequest());
    expect([idOf(outcome), minutesLeft(outcome, clock.now())]).toEqual(["ASIA1", 39]);
    expect(sts.calls).toBe(1);
  });

  test("longer, with the timers of its refresh and its end still to come: the first who asks gets a new one", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    clock.sleep(3 * HOUR);
    const outcome = await broker.get(aRequest());
    expect([idOf(outcome), minutesLeft(outcome, clock.now())]).toEqual(["ASIA2", 59]);
    // The timers of the old session end nothing of the new one.
    await clock.advance(30 * MINUTE - SECOND);
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA2");
    expect(sts.calls).toBe(2);
  });

  test("and whose clock is set back afterwards: a session is not served for longer than its life", async () => {
    const { broker, sts, clock, jump } = aBroker();
    await broker.get(aRequest());
    clock.sleep(50 * MINUTE);
    jump(-50 * MINUTE);
    sts.failing = () => passing();
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
    // No timer has noticed, and by the wall clock it is 9 minutes old.
    await clock.advance(9 * MINUTE);
    const late = broker.get(aRequest());
    await clock.advance(5 * SECOND);
    expect(idOf(await late)).toBe("unavailable");
    expect(broker.counts()).toMatchObject({ sessions: 0 });
    sts.failing = null;
    await clock.advance(2 * MINUTE);
    expect(idOf(await broker.get(aRequest()))).toStartWith("ASIA");
  });

  test("while STS is away: after it nobody gets what is over, and the session comes by itself once STS is back", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    sts.failing = () => passing();
    clock.sleep(2 * HOUR);
    const waiting = broker.get(aRequest());
    await clock.advance(5 * SECOND);
    expect(idOf(await waiting)).toBe("unavailable");
    sts.failing = null;
    await clock.advance(MINUTE);
    expect(broker.counts()).toMatchObject({ sessions: 1 });
  });

  test("in the middle of a call of STS: the call is given up by its own time, and the next one is made", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    const waiting = broker.get(aRequest());
    await clock.advance(0);
    clock.sleep(2 * HOUR);
    await clock.advance(5 * SECOND);
    expect(idOf(await waiting)).toBe("unavailable");
    sts.manual = false;
    await clock.advance(MINUTE);
    expect(idOf(await broker.get(aRequest()))).toStartWith("ASIA");
  });
});

describe("limits", () => {
  const many = (count: number, name: string) =>
    Array.from({ length: count }, (_, index) => aRequest({ sessionName: `${name}${index}` }));

  test("at most maxConcurrent calls are in flight, 16 by default", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    const users = many(136, "user").map((request) => broker.get(request));
    await clock.advance(0);
    let most = 0;
    while (sts.open.length > 0) {
      most = Math.max(most, sts.open.length);
      sts.open.shift()?.answer();
      await clock.advance(0);
    }
    expect(most).toBe(16);
    expect((await Promise.all(users)).every((outcome) => outcome.kind === "session")).toBe(true);
    expect(sts.calls).toBe(136);
  });

  test("a session that is withdrawn while its call waits for a turn is not asked for", async () => {
    const { broker, sts, clock } = aBroker({ maxConcurrent: 1 });
    sts.manual = true;
    const [first, second, third] = ["a", "b", "c"].map((sessionName) => aRequest({ sessionName }));
    if (first === undefined || second === undefined || third === undefined) throw new Error("three requests");
    const outcomes = [first, second, third].map((request) => broker.get(request));
    await clock.advance(0);
    broker.forget(second, "withdrawn");
    for (const _ of [first, third]) {
      sts.open.shift()?.answer();
      await clock.advance(0);
    }
    expect(sts.requests.map(({ sessionName }) => sessionName)).toEqual(["a", "c"]);
    expect((await Promise.all(outcomes)).map(({ kind }) => kind)).toEqual([
      "session",
      "unavailable",
      "session",
    ]);
    expect(broker.counts()).toMatchObject({ sessions: 2, entries: 2, inFlight: 0 });
  });

  test("one who asks for 200 sessions has half of the calls at most, and the next user's turn comes next", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    for (const request of many(200, "mallory")) void broker.get(request, 666);
    await clock.advance(0);
    expect(sts.calls).toBe(8);
    for (const request of many(9, "bob")) void broker.get(request, 1001);
    await clock.advance(0);
    expect(sts.calls).toBe(16);
    void broker.get(aRequest(), 1000);
    sts.open[0]?.answer();
    await clock.advance(0);
    sts.open[1]?.answer();
    await clock.advance(0);
    expect(sts.requests.slice(16).map((request) => request.sessionName)).toContain("alice@i-0123");
  });

  test("while STS throttles, one who asks for 200 sessions keeps nobody else from waiting for their own turn", async () => {
    const { broker, sts, clock } = aBroker();
    sts.failing = () => passing();
    await broker.get(aRequest(), 1000);
    sts.failing = null;
    for (const request of many(200, "mallory")) void broker.get(request, 666);
    await clock.advance(0);
    expect(broker.counts().entries).toBe(201);
    const bob = broker.get(aRequest({ sessionName: "bob" }), 1001);
    await clock.advance(3 * SECOND);
    expect(idOf(await bob)).toMatch(/^ASIA/);
  });

  test("one who asks for many sessions loses the oldest of their own, and nobody else's", async () => {
    const { broker, sts } = aBroker({ maxEntriesPerOwner: 10 });
    await broker.get(aRequest(), 1000);
    for (const request of many(50, "mallory")) await broker.get(request, 666);
    expect(broker.counts().sessions).toBe(11);
    const before = sts.calls;
    await broker.get(aRequest(), 1000);
    await broker.get(aRequest({ sessionName: "mallory49" }), 666);
    expect(sts.calls).toBe(before);
    await broker.get(aRequest({ sessionName: "mallory0" }), 666);
    expect(sts.calls).toBe(before + 1);
  });

  test("where all places are taken, who has most of them gives one up", async () => {
    const { broker, sts } = aBroker({ maxEntries: 20 });
    await broker.get(aRequest(), 1000);
    for (const request of many(19, "mallory")) await broker.get(request, 666);
    for (const request of many(5, "bob")) await broker.get(request, 1001);
    expect(broker.counts().entries).toBe(20);
    const before = sts.calls;
    await broker.get(aRequest(), 1000);
    expect(sts.calls).toBe(before);
    expect(broker.peek(aRequest({ sessionName: "mallory0" }))).toBeNull();
    expect(broker.peek(aRequest({ sessionName: "mallory18" }))).not.toBeNull();
  });

  test("what was asked for last is dropped last", async () => {
    const { broker, sts } = aBroker({ maxEntriesPerOwner: 2 });
    const [first, second, third] = [1, 2, 3].map((n) => aRequest({ sessionName: `alice-${n}` }));
    if (first === undefined || second === undefined || third === undefined) throw new Error("unreachable");
    for (const request of [first, second, first, third]) await broker.get(request, 1000);
    expect(sts.calls).toBe(3);
    expect([first, second, third].map((request) => broker.peek(request) !== null)).toEqual([
      true,
      false,
      true,
    ]);
  });

  test("an attempt that somebody waits for is never dropped to make place", async () => {
    const { broker, sts, clock } = aBroker({ maxEntriesPerOwner: 2 });
    sts.manual = true;
    const waiting = many(2, "alice").map((request) => broker.get(request, 1000));
    expect(idOf(await broker.get(aRequest({ sessionName: "alice-too-many" }), 1000))).toBe("unavailable");
    await clock.advance(0);
    for (const call of sts.open) call.answer();
    expect((await Promise.all(waiting)).map(idOf)).toEqual(["ASIA1", "ASIA2"]);
  });
});

describe("peek()", () => {
  test("tells the published end, asks nobody, and keeps nothing alive", async () => {
    const { broker, sts, clock } = aBroker();
    expect(broker.peek(aRequest())).toBeNull();
    expect(sts.calls).toBe(0);
    await broker.get(aRequest());
    expect(broker.peek(aRequest())).toBe(clock.now() + 59 * MINUTE);
    for (let minute = 0; minute < 120; minute++) {
      broker.peek(aRequest());
      await clock.advance(MINUTE);
    }
    expect(sts.calls).toBe(2);
    expect(broker.peek(aRequest())).toBeNull();
  });
});

describe("stop()", () => {
  test("ends attempts, tells who waits, and leaves no timer and no session", async () => {
    const { broker, sts, clock } = aBroker();
    await broker.get(aRequest());
    sts.manual = true;
    const waiting = broker.get(aRequest({ sessionName: "bob@i-0123" }));
    await clock.advance(0);
    broker.stop();
    expect(await waiting).toEqual({ kind: "unavailable", message: "imdsproxy is stopping" });
    expect(sts.open[0]?.signal.aborted).toBe(true);
    await clock.advance(0);
    expect(clock.pending).toBe(0);
    expect(broker.counts()).toEqual(NO_SESSIONS);
    expect(idOf(await broker.get(aRequest()))).toBe("unavailable");
    expect(sts.calls).toBe(2);
  });

  test("tells those who wait for a scheduled attempt", async () => {
    const { broker, sts, clock } = aBroker();
    sts.failing = () => passing();
    await broker.get(aRequest());
    const waiting = broker.get(aRequest());
    broker.stop();
    expect(await waiting).toEqual({ kind: "unavailable", message: "imdsproxy is stopping" });
    expect(clock.pending).toBe(0);
  });

  test("keeps nothing of an answer that came in the same moment", async () => {
    const { broker, sts, clock } = aBroker();
    sts.manual = true;
    void broker.get(aRequest());
    await clock.advance(0);
    sts.open[0]?.answer();
    broker.stop();
    await clock.advance(0);
    expect(clock.pending).toBe(0);
    expect(broker.counts().sessions).toBe(0);
  });
});

describe("events", () => {
  test("tell what was obtained, and hold no secret", async () => {
    const { broker, events, clock } = aBroker();
    await broker.get(aRequest());
    await clock.advance(2 * HOUR);
    expect(events).toMatchObject([
      { type: "obtained", reason: "asked", accessKeyId: "ASIA1", request: { sessionName: "alice@i-0123" } },
      { type: "obtained", reason: "refresh", accessKeyId: "ASIA2" },
      { type: "dropped", reason: "ended" },
    ]);
    expect(JSON.stringify(events)).not.toMatch(/secret-of|token-of/);
  });

  test("a listener that throws costs nobody a session", async () => {
    const { broker } = aBroker({
      onEvent() {
        throw new Error("the disk is full");
      },
    });
    expect(idOf(await broker.get(aRequest()))).toBe("ASIA1");
  });
});

test("the counts tell each state, and by role when the first session ends", async () => {
  const { broker, sts, clock } = aBroker();
  const B = "arn:aws:iam::842413447717:role/B";
  await broker.get(aRequest({ sessionName: "alice" }));
  await clock.advance(10 * MINUTE);
  await broker.get(aRequest({ sessionName: "bob" }));
  await broker.get(aRequest({ roleArn: B, durationSeconds: 900 }));
  sts.failing = denied;
  await broker.get(aRequest({ sessionName: "carol" }));
  sts.failing = passing;
  const dave = broker.get(aRequest({ sessionName: "dave" }));
  await clock.advance(4 * SECOND);
  await dave;
  sts.failing = null;
  sts.manual = true;
  void broker.get(aRequest({ sessionName: "erin" }));
  const { states, leastLifeMs, sessions } = broker.counts();
  expect([sessions, states]).toEqual([3, { fresh: 3, low: 0, denied: 1, failed: 1, pending: 1 }]);
  // A minute is kept back of each; ten minutes and four seconds of alice's are over.
  expect(Object.fromEntries(leastLifeMs)).toEqual({
    [aRequest().roleArn]: 49 * MINUTE - 4 * SECOND,
    [B]: 14 * MINUTE - 4 * SECOND,
  });
});

describe("byRole()", () => {
  const A = "arn:aws:iam::123456789012:role/A";
  const B = "arn:aws:iam::123456789012:role/B";
  test("counts what is in memory for each role, with the first end that clients are told", async () => {
    const { broker, sts, clock } = aBroker();
    expect(broker.byRole()).toEqual([]);
    const first = await broker.get(aRequest({ roleArn: B, sessionName: "one" }), 1);
    await clock.advance(MINUTE);
    await broker.get(aRequest({ roleArn: B, sessionName: "two" }), 2);
    await broker.get(aRequest({ roleArn: A }), 1);
    sts.failing = () => denied();
    await broker.get(aRequest({ roleArn: A, sessionName: "denied" }), 2);
    sts.failing = () => passing();
    await broker.get(aRequest({ roleArn: A, sessionName: "failing" }), 2);
    const endMs = first.kind === "session" ? first.publishedExpiryMs : Number.NaN;
    expect(broker.byRole()).toEqual([
      { role: A, sessions: 1, firstEndMs: endMs + MINUTE, notRenewed: 0, denied: 1, failing: 1 },
      { role: B, sessions: 2, firstEndMs: endMs, notRenewed: 0, denied: 0, failing: 0 },
    ]);
    // An owner's own alone.
    expect(broker.byRole(1)).toEqual([
      { role: A, sessions: 1, firstEndMs: endMs + MINUTE, notRenewed: 0, denied: 0, failing: 0 },
      { role: B, sessions: 1, firstEndMs: endMs, notRenewed: 0, denied: 0, failing: 0 },
    ]);
    expect(broker.byRole(3)).toEqual([]);
  });
  test("counts each request once, as the counts by state do: a session that is not renewed is a session", async () => {
    const { broker, sts, clock } = aBroker();
    const requests = ["one", "two"].map((sessionName) => aRequest({ roleArn: A, sessionName }));
    for (const request of requests) await broker.get(request, 1);
    const agree = () => {
      const { sessions, states } = broker.counts();
      const [row] = broker.byRole();
      expect([row?.sessions, row?.denied, row?.failing]).toEqual([
        states.fresh + states.low,
        states.denied,
        states.failed,
      ]);
      expect(sessions).toBe(states.fresh + states.low);
      return row;
    };
    sts.failing = () => denied();
    await clock.advance(31 * MINUTE);
    expect(agree()).toMatchObject({ sessions: 2, notRenewed: 2, denied: 0, failing: 0 });
    // The end: STS denies as before, and there is no session any more.
    await clock.advance(28 * MINUTE);
    for (const request of requests) await broker.get(request, 1);
    expect(agree()).toMatchObject({ sessions: 0, notRenewed: 0, denied: 2, failing: 0, firstEndMs: null });
  });
});
