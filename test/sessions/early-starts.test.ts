import { expect, test } from "bun:test";
import { EarlyStarts } from "../../src/sessions/early-starts.ts";
import { HOUR, MINUTE } from "./support.ts";

test("a request is begun early once in the life of its session", () => {
  const early = new EarlyStarts();
  expect(early.take("a", 1, HOUR, 0)).toBe(true);
  expect(early.take("a", 1, HOUR, 1)).toBe(false);
  expect(early.take("a", 1, HOUR, HOUR - 1)).toBe(false);
  expect(early.take("a", 1, HOUR, HOUR)).toBe(true);
});

test("a clock that is set back by a day keeps nobody from it for a day", () => {
  const early = new EarlyStarts();
  early.take("a", 1, HOUR, 25 * HOUR);
  expect(early.take("a", 1, HOUR, HOUR)).toBe(true);
});

test("an owner begins 16 in a minute, and leaves the others theirs", () => {
  const early = new EarlyStarts();
  const begun = (owner: number, nowMs: number) =>
    Array.from({ length: 100 }, (_, n) => early.take(`${owner} ${nowMs} ${n}`, owner, HOUR, nowMs)).filter(
      Boolean,
    ).length;
  expect([begun(1, 0), begun(2, 0), begun(1, MINUTE - 1), begun(1, MINUTE)]).toEqual([16, 16, 0, 16]);
});

test("what is remembered is bounded, however many owners and requests there are", () => {
  const early = new EarlyStarts();
  for (let n = 0; n < 20_000; n++) early.take(`r${n}`, n, HOUR, 0);
  // The first is forgotten, the last is not.
  expect(early.take("r0", 0, HOUR, 1)).toBe(true);
  expect(early.take("r19999", 19_999, HOUR, 1)).toBe(false);
});
