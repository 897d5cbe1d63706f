import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Alarms } from "../../src/platform/alarms.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { holdsAsync } from "../support/fuzz.ts";

function theAlarms() {
  const clock = new FakeClock();
  const alarms = new Alarms<string>({ clock, monotonicMs: () => clock.monotonicMs });
  const rang: string[] = [];
  const ring = (name: string) => void rang.push(`${name} at ${clock.monotonicMs}`);
  return { clock, alarms, rang, ring };
}

describe("Alarms", () => {
  test("go off when they are due, each once, in their order, on one timer of the clock", async () => {
    const { clock, alarms, rang, ring } = theAlarms();
    alarms.set(30, ring, "c");
    alarms.set(10, ring, "a");
    alarms.set(20, ring, "b");
    // The timer for "c" was taken back when "a" came.
    expect({ size: alarms.size, timers: clock.pending }).toEqual({ size: 3, timers: 1 });
    await clock.advance(9);
    expect(rang).toEqual([]);
    await clock.advance(100);
    expect(rang).toEqual(["a at 10", "b at 20", "c at 30"]);
    expect({ size: alarms.size, timers: clock.pending }).toEqual({ size: 0, timers: 0 });
  });

  test("of one moment go off in the order in which they were set, and a negative time is at once", async () => {
    const { clock, alarms, rang, ring } = theAlarms();
    for (const name of ["a", "b", "c"]) alarms.set(5, ring, name);
    alarms.set(-1, ring, "now");
    alarms.set(Number.NaN, ring, "too");
    await clock.advance(5);
    expect(rang).toEqual(["now at 0", "too at 0", "a at 5", "b at 5", "c at 5"]);
  });

  test("that are cancelled do not, whether they are first, last or gone off already", async () => {
    const { clock, alarms, rang, ring } = theAlarms();
    const [a, b, c] = ["a", "b", "c"].map((name, i) => alarms.set(10 * (i + 1), ring, name));
    if (a === undefined || b === undefined || c === undefined) throw new Error("three were set");
    alarms.cancel(a);
    alarms.cancel(a);
    alarms.cancel(c);
    await clock.advance(100);
    alarms.cancel(b);
    expect(rang).toEqual(["b at 20"]);
    alarms.cancel(alarms.set(10, ring, "d"));
    expect({ size: alarms.size, timers: clock.pending }).toEqual({ size: 0, timers: 0 });
  });

  test("do not notice a change of the wall clock", async () => {
    const { clock, alarms, rang, ring } = theAlarms();
    alarms.set(60_000, ring, "a");
    clock.jump(86_400_000);
    await clock.advance(59_999);
    clock.jump(-2 * 86_400_000);
    expect(rang).toEqual([]);
    await clock.advance(1);
    expect(rang).toEqual(["a at 60000"]);
  });

  test("may be set and cancelled by one that goes off", async () => {
    const { clock, alarms, rang, ring } = theAlarms();
    const other = alarms.set(10, ring, "other");
    alarms.set(
      10,
      (name) => {
        ring(name);
        alarms.set(0, ring, "again");
        alarms.set(5, ring, "later");
      },
      "first",
    );
    alarms.set(4, () => alarms.cancel(other), "cancels");
    await clock.advance(50);
    expect(rang).toEqual(["first at 10", "again at 10", "later at 15"]);
  });

  test("one that throws keeps none of the others from going off", async () => {
    const { clock, alarms, rang, ring } = theAlarms();
    alarms.set(
      10,
      () => {
        throw new Error("of the one who is called");
      },
      "a",
    );
    alarms.set(10, ring, "b");
    await expect(clock.advance(10)).rejects.toThrow("of the one who is called");
    await clock.advance(10);
    expect(rang).toEqual(["b at 10"]);
  });

  test("a crowd of one moment leaves the clock its turns in between, and all go off", async () => {
    const { clock, alarms, rang, ring } = theAlarms();
    let most = 0;
    let before = 0;
    const looks = (): void => {
      most = Math.max(most, rang.length - before);
      before = rang.length;
      if (alarms.size > 0) clock.schedule(0, looks);
    };
    for (let i = 0; i < 1_000; i++) alarms.set(10, ring, String(i));
    clock.schedule(10, looks);
    await clock.advance(10);
    expect(rang.map((one) => Number.parseInt(one, 10))).toEqual(Array.from({ length: 1_000 }, (_, i) => i));
    expect(most).toBeLessThanOrEqual(64);
  });

  test("a clock that goes off before it is due is waited for again, and no rest of a millisecond keeps it busy", async () => {
    const timers: { delayMs: number; run: () => void }[] = [];
    let nowMs = 1_000.25;
    const alarms = new Alarms<string>({
      clock: {
        schedule(delayMs, run) {
          timers.push({ delayMs, run });
          return () => {};
        },
      },
      monotonicMs: () => nowMs,
    });
    const rang: string[] = [];
    alarms.set(10.5, (name) => void rang.push(name), "a");
    expect(timers.map(({ delayMs }) => delayMs)).toEqual([11]);
    nowMs = 1_010.5;
    timers[0]?.run();
    expect({ rang, delays: timers.map(({ delayMs }) => delayMs) }).toEqual({ rang: [], delays: [11, 1] });
    nowMs = 1_011.5;
    timers[1]?.run();
    expect(rang).toEqual(["a"]);
  });

  test("are those of as many timers of the clock, whatever is set and cancelled", async () => {
    const step = fc.record({
      delayMs: fc.integer({ min: 0, max: 50 }),
      cancel: fc.option(fc.nat(40), { nil: null }),
      passMs: fc.integer({ min: 0, max: 20 }),
    });
    await holdsAsync(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const { clock, alarms, rang } = theAlarms();
        const wanted: string[] = [];
        const set = steps.map(() => null as null | { one: () => void; other: () => void });
        let count = 0;
        for (const { delayMs, cancel, passMs } of steps) {
          const name = String(count);
          const alarm = alarms.set(delayMs, () => void rang.push(`${name} ${clock.monotonicMs}`), name);
          const other = clock.schedule(delayMs, () => void wanted.push(`${name} ${clock.monotonicMs}`));
          set[count++] = { one: () => alarms.cancel(alarm), other };
          const cancelled = cancel === null ? null : set[cancel];
          cancelled?.one();
          cancelled?.other();
          await clock.advance(passMs);
        }
        await clock.advance(100);
        expect(rang).toEqual(wanted);
        expect({ size: alarms.size, timers: clock.pending }).toEqual({ size: 0, timers: 0 });
      }),
      60,
    );
  });
});
