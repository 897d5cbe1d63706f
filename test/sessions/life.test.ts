import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  expiryToPublish,
  type Life,
  lifeOf,
  refreshDelayMs,
  retryDelayMs,
  standing,
} from "../../src/sessions/life.ts";
import { holds } from "../support/fuzz.ts";
import { HOUR, MINUTE } from "./support.ts";

const NOW = Date.UTC(2030, 0, 1);

function lifeOfSeconds(seconds: number): Life {
  const life = lifeOf(NOW + seconds * 1000, seconds, NOW);
  if (life === null) throw new Error("no life");
  return life;
}

describe("lifeOf()", () => {
  test("of an hour: published 60 s early, 20 minutes as the floor, refreshed after 30", () => {
    expect(lifeOfSeconds(3600)).toEqual({
      publishedExpiryMs: NOW + 59 * MINUTE,
      publishedLifeMs: 59 * MINUTE,
      floorMs: 20 * MINUTE,
      halfLifeMs: 30 * MINUTE,
    });
  });

  test("of any duration that AWS allows: the refresh comes before the floor", () => {
    holds(
      fc.property(
        fc.integer({ min: 900, max: 3600 }),
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        fc.boolean(),
        (seconds, random, inTime) => {
          const life = lifeOfSeconds(seconds);
          const delayMs = refreshDelayMs(life, random, inTime);
          expect(life.publishedLifeMs - delayMs).toBeGreaterThan(life.floorMs);
        },
      ),
      100,
    );
  });

  test("is never longer than was asked for, whatever the clock makes of STS's date", () => {
    expect(lifeOf(NOW + 25 * HOUR, 3600, NOW)?.publishedLifeMs).toBe(59 * MINUTE);
  });

  test("is null where nothing is left to publish", () => {
    for (const expiresAtMs of [NOW + MINUTE, NOW, NOW - HOUR, Number.NaN]) {
      expect(lifeOf(expiresAtMs, 3600, NOW)).toBeNull();
    }
  });
});

describe("standing()", () => {
  const life = lifeOfSeconds(3600);
  test.each([
    [0, "fresh"],
    [39 * MINUTE, "fresh"],
    [39 * MINUTE + 1, "low"],
    [59 * MINUTE - 1, "low"],
    [59 * MINUTE, "ended"],
    [-1 * MINUTE, "fresh"],
    [-1 * MINUTE - 1, "low"],
  ] as const)("%d ms after it was obtained, by the wall clock: %s", (ageMs, expected) => {
    expect(standing(life, NOW + ageMs)).toBe(expected);
  });
});

describe("expiryToPublish()", () => {
  test("is the published end, but never further off than at first", () => {
    const life = lifeOfSeconds(3600);
    expect(expiryToPublish(life, NOW + HOUR / 2)).toBe(NOW + 59 * MINUTE);
    expect(expiryToPublish(life, NOW - 24 * HOUR)).toBe(NOW - 24 * HOUR + 59 * MINUTE);
  });
});

describe("retryDelayMs()", () => {
  test("is never under half a second nor over six minutes, and never before Retry-After", () => {
    holds(
      fc.property(
        fc.integer({ min: 1, max: 10_000 }),
        fc.option(fc.oneof(fc.integer(), fc.constant(Number.NaN), fc.constant(Number.POSITIVE_INFINITY))),
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        (failures, retryAfterMs, random) => {
          const delayMs = retryDelayMs(failures, retryAfterMs, random);
          expect(delayMs).toBeGreaterThanOrEqual(500);
          expect(delayMs).toBeLessThanOrEqual(6 * MINUTE);
          if (retryAfterMs !== null && retryAfterMs <= 5 * MINUTE)
            expect(delayMs).toBeGreaterThanOrEqual(retryAfterMs);
        },
      ),
      100,
    );
  });
});
