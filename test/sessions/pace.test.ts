import { describe, expect, test } from "bun:test";
import { StsPace } from "../../src/sessions/pace.ts";
import { aBroker, aRequest, idOf, MINUTE, passing, SECOND } from "./support.ts";

const NOW = Date.UTC(2030, 0, 1);
const aPace = (random = 0.999) => new StsPace(() => random);

describe("StsPace", () => {
  test("does nothing while nothing fails", () => {
    const pace = aPace();
    for (let at = NOW; at < NOW + 100; at++) {
      pace.called(at);
      pace.succeeded(at);
      expect(pace.waitMs(at)).toBe(0);
    }
  });

  test("doubles the distance each time that STS throttles, up to a minute", () => {
    const pace = aPace();
    const seen: number[] = [];
    for (let at = NOW, i = 0; i < 9; i++, at += MINUTE) {
      pace.throttled(at, at + 1);
      seen.push(pace.distanceMs(at + 1) / SECOND);
    }
    expect(seen).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60]);
  });

  test("counts calls that were throttled together once", () => {
    const pace = aPace();
    for (let call = 0; call < 16; call++) pace.throttled(NOW, NOW + 100 + call);
    expect(pace.distanceMs(NOW + 200)).toBe(SECOND);
  });

  test("shortens it by a fifth with each success, until there is none", () => {
    const pace = aPace();
    pace.throttled(NOW, NOW);
    pace.succeeded(NOW);
    expect(pace.distanceMs(NOW)).toBe(800);
    let successes = 1;
    while (pace.distanceMs(NOW) > 0) {
      pace.succeeded(NOW);
      successes++;
    }
    expect(successes).toBe(14);
  });

  test("waits for half to all of the distance after a call, by chance", () => {
    for (const [random, least] of [
      [0, 500],
      [0.999, 999.5],
    ] as const) {
      const pace = aPace(random);
      pace.throttled(NOW, NOW);
      expect(pace.waitMs(NOW)).toBe(0);
      pace.called(NOW);
      expect(pace.waitMs(NOW)).toBeCloseTo(least);
      expect(pace.waitMs(NOW + 200)).toBeCloseTo(least - 200);
    }
  });

  test("takes other failures for an STS that is away once there are three in a row, and keeps to five seconds", () => {
    const pace = aPace();
    for (const expected of [0, 0, 5, 5]) {
      pace.failed(NOW);
      expect(pace.distanceMs(NOW) / SECOND).toBe(expected);
    }
    pace.succeeded(NOW);
    pace.failed(NOW);
    expect(pace.distanceMs(NOW)).toBe(4_000);
  });

  test("is over five minutes after the last failure, and when the clock was set back", () => {
    for (const at of [NOW + 5 * MINUTE + 1, NOW - 1]) {
      const pace = aPace();
      pace.throttled(NOW, NOW);
      pace.called(NOW);
      expect(pace.waitMs(at)).toBe(0);
      expect(pace.distanceMs(at)).toBe(0);
    }
  });
});

describe("a node that STS throttles", () => {
  /** A broker with fifty users, all of whom want a session. */
  async function crowd() {
    const node = aBroker({ random: () => 0.5 });
    node.sts.failing = () => passing(5_000);
    const requests = Array.from({ length: 50 }, (_, at) => aRequest({ sessionName: `user${at}` }));
    const all = () => requests.map((one) => node.broker.get(one));
    const first = all();
    await node.clock.advance(3 * SECOND);
    expect(new Set((await Promise.all(first)).map(idOf))).toEqual(new Set(["unavailable"]));
    return { ...node, requests, all };
  }

  test("tries a few sessions, not each of them; and serves all, in turns, once STS is well", async () => {
    const { sts, clock, broker, requests, all } = await crowd();
    await clock.advance(10 * MINUTE);
    expect(sts.calls).toBeLessThan(16 + 25);
    sts.failing = null;
    // Nobody has asked meanwhile for so long that they were forgotten.
    for (let minute = 0; minute < 8; minute++) {
      const asked = all();
      await clock.advance(MINUTE);
      await Promise.all(asked);
    }
    for (const one of requests) expect(idOf(await broker.get(one))).toStartWith("ASIA");
  });

  test("answers who asks at once where their turn comes later than they may wait", async () => {
    const { broker, requests, clock } = await crowd();
    await clock.advance(30 * SECOND);
    const nowMs = clock.now();
    for (const one of requests.slice(40)) expect(idOf(await broker.get(one))).toBe("unavailable");
    expect(clock.now()).toBe(nowMs);
  });

  test("gives one who comes later the next turn, however many sessions another waits for", async () => {
    const { broker, sts, clock } = aBroker({ random: () => 0.5 });
    sts.failing = () => passing(5_000);
    for (let at = 0; at < 100; at++) broker.prepare(aRequest({ sessionName: `mallory${at}` }), "mallory");
    await clock.advance(30 * SECOND);
    broker.prepare(aRequest({ sessionName: "bob" }), "bob");
    const before = sts.requests.length;
    await clock.advance(2 * MINUTE);
    expect(sts.requests.slice(before, before + 2).map(({ sessionName }) => sessionName)).toContain("bob");
  });

  test("has nothing left over when it stops", async () => {
    const { broker, clock } = await crowd();
    broker.stop();
    await clock.advance(0);
    expect(clock.pending).toBe(0);
  });
});
