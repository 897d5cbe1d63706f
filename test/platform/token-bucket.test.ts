import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { TokenBucket } from "../../src/platform/token-bucket.ts";
import { holds } from "../support/fuzz.ts";

describe("TokenBucket", () => {
  test("gives a burst at once, then one token an interval, in the order of asking", () => {
    const bucket = new TokenBucket({ perSecond: 10, burst: 3 }, 1_000);
    expect([0, 0, 0, 0, 0].map(() => bucket.take(5_000))).toEqual([0, 0, 0, 100, 200]);
    expect(bucket.waitMs(5_000)).toBe(300);
    expect(bucket.waitMs(5_250)).toBe(50);
  });

  test("is full again after the time that its tokens take to come", () => {
    const bucket = new TokenBucket({ perSecond: 10, burst: 3 }, 1_000);
    for (let i = 0; i < 3; i++) bucket.take(0);
    expect([bucket.isFull(299), bucket.isFull(300)]).toEqual([false, true]);
    expect([bucket.take(300), bucket.take(300), bucket.take(300)]).toEqual([0, 0, 0]);
  });

  test("a wall clock that is set back by a day keeps nobody waiting for a day", () => {
    const bucket = new TokenBucket({ perSecond: 1, burst: 2 }, 10_000);
    for (let i = 0; i < 5; i++) bucket.take(86_400_000);
    expect(bucket.waitMs(0)).toBeLessThanOrEqual(12_000);
  });

  test("in no window come more than the burst and what the window's time gives", () => {
    holds(
      fc.property(
        fc.integer({ min: 1, max: 50 }),
        fc.integer({ min: 1, max: 20 }),
        fc.array(fc.integer({ min: 0, max: 300 }), { minLength: 1, maxLength: 100 }),
        (perSecond, burst, pauses) => {
          const bucket = new TokenBucket({ perSecond, burst }, 60_000);
          let now = 0;
          const given = pauses.map((pause) => {
            now += pause;
            return now + bucket.take(now);
          });
          for (const [i, from] of given.entries()) {
            for (const [j, to] of given.entries()) {
              if (j < i) continue;
              const most = burst + ((to - from) * perSecond) / 1_000 + 1e-6;
              if (j - i + 1 > most) return false;
            }
          }
          return true;
        },
      ),
      300,
    );
  });
});
