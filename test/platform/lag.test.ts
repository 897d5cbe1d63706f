import { expect, test } from "bun:test";
import { LagMeter } from "../../src/platform/lag.ts";

/** A meter whose timer and clock a test turns on their own: what is between them is the lag. */
function aMeter() {
  let nowMs = 1_000;
  let look: (() => void) | null = null;
  const meter = new LagMeter({
    clock: {
      schedule: (_delayMs, run) => {
        look = run;
        return () => {
          look = null;
        };
      },
    },
    monotonicMs: () => nowMs,
  });
  return {
    meter,
    pass: (ms: number) => {
      nowMs += ms;
    },
    look: () => look?.(),
    get looking() {
      return look !== null;
    },
  };
}

test("nothing is late before it starts, and where timers come in time", () => {
  const { meter, pass, look } = aMeter();
  expect(meter.lagMs).toBe(0);
  meter.start();
  pass(100);
  look();
  expect(meter.lagMs).toBe(0);
});

test("a timer that came late is the lag for two seconds", () => {
  const { meter, pass, look } = aMeter();
  meter.start();
  pass(170);
  look();
  expect(meter.lagMs).toBe(70);
  for (let looks = 0; looks < 19; looks++) {
    pass(100);
    look();
  }
  expect(meter.lagMs).toBe(70);
  pass(100);
  look();
  expect(meter.lagMs).toBe(0);
});

test("a timer that has not come yet is late already", () => {
  const { meter, pass } = aMeter();
  meter.start();
  pass(400);
  expect(meter.lagMs).toBe(300);
});

test("stopped, it looks no more", () => {
  const made = aMeter();
  made.meter.start();
  made.meter.stop();
  expect(made.looking).toBe(false);
});
