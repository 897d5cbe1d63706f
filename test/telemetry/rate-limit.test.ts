import { describe, expect, test } from "bun:test";
import { RateLimitedLog } from "../../src/telemetry/rate-limit.ts";

/** A rate limit of one line in 10 s, a clock to turn, and the lines: `key count`. */
function aLimit() {
  const time = { nowMs: 5_000 };
  const lines: string[] = [];
  const limit = new RateLimitedLog({ intervalMs: 10_000, now: () => time.nowMs });
  const happens = (key: string) => limit.write(key, (count) => lines.push(`${key} ${count}`));
  return { time, lines, happens };
}

describe("RateLimitedLog", () => {
  test("writes the first event of a key at once, and of each key", () => {
    const { lines, happens } = aLimit();
    for (const key of ["a", "b", "a", "b"]) happens(key);
    expect(lines).toEqual(["a 1", "b 1"]);
  });

  test("the next line of a key comes with the first event after the interval, and counts those between", () => {
    const { time, lines, happens } = aLimit();
    for (const ms of [0, 1, 9_998]) {
      time.nowMs += ms;
      happens("a");
    }
    expect(lines).toEqual(["a 1"]);
    time.nowMs += 1;
    happens("a");
    expect(lines).toEqual(["a 1", "a 3"]);
    time.nowMs += 10_000;
    happens("a");
    expect(lines).toEqual(["a 1", "a 3", "a 1"]);
  });

  test("no line is written twice, and no event is counted twice, whatever the times", () => {
    const { time, lines, happens } = aLimit();
    for (let event = 0; event < 1_000; event++) {
      time.nowMs += (event * 7_919) % 4_000;
      happens("a");
    }
    time.nowMs += 10_000;
    happens("a");
    const counted = lines.reduce((sum, line) => sum + Number(line.split(" ")[1]), 0);
    expect(counted).toBe(1_001);
  });

  test("a clock that goes back silences nobody", () => {
    const { time, lines, happens } = aLimit();
    happens("a");
    time.nowMs -= 3_600_000;
    happens("a");
    expect(lines).toEqual(["a 1", "a 1"]);
  });

  test("of more than a hundred keys at a time the rest share one line, and none is lost", () => {
    const { time, lines, happens } = aLimit();
    for (let uid = 0; uid < 5_000; uid++) happens(`uid ${uid}`);
    // A hundred of their own, and the first of the others.
    expect(lines).toHaveLength(101);
    time.nowMs += 10_000;
    happens("uid 4999");
    expect(lines.at(-1)).toBe("uid 4999 1");
  });

  test("keys that were not heard of for the interval make room", () => {
    const { time, lines, happens } = aLimit();
    for (let uid = 0; uid < 100; uid++) happens(`uid ${uid}`);
    time.nowMs += 10_000;
    for (let uid = 100; uid < 200; uid++) happens(`uid ${uid}`);
    expect(lines).toHaveLength(200);
  });
});
