import { describe, expect, test } from "bun:test";
import { feedWatchdog } from "../../src/wiring/watchdog.ts";
import { FakeClock } from "../support/fake-clock.ts";

function setUp(limitMicroseconds: string | undefined) {
  const clock = new FakeClock();
  const told: string[] = [];
  const state = { accepting: true };
  const stop = feedWatchdog({
    limitMicroseconds,
    isWell: () => state.accepting,
    notify: (message) => told.push(message),
    clock,
  });
  return { clock, told, state, stop };
}

describe("feedWatchdog()", () => {
  test("tells systemd three times in WatchdogSec= that the proxy is well", async () => {
    const { clock, told } = setUp("60000000");
    await clock.advance(60_000);
    expect(told).toEqual(["WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
  });

  test("tells nothing while no connection is accepted, and goes on when one is", async () => {
    const { clock, told, state } = setUp("60000000");
    state.accepting = false;
    await clock.advance(200_000);
    expect(told).toEqual([]);
    state.accepting = true;
    await clock.advance(20_000);
    expect(told).toEqual(["WATCHDOG=1"]);
  });

  test("tells nothing once it is stopped", async () => {
    const { clock, told, stop } = setUp("60000000");
    await clock.advance(20_000);
    stop();
    await clock.advance(200_000);
    expect([told, clock.pending]).toEqual([["WATCHDOG=1"], 0]);
  });

  for (const limit of [undefined, "", "0", "-1", "soon"]) {
    test(`does nothing where WATCHDOG_USEC is ${limit}`, () => {
      expect(setUp(limit).clock.pending).toBe(0);
    });
  }
});
