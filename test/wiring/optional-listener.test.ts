import { describe, expect, test } from "bun:test";
import { ImdsProxyError } from "../../src/errors.ts";
import type { Fields, Log } from "../../src/telemetry/log.ts";
import { OptionalListener } from "../../src/wiring/optional-listener.ts";
import { FakeClock } from "../support/fake-clock.ts";

function setUp() {
  const lines: string[] = [];
  const write = (message: string, fields: Fields = {}) =>
    void lines.push(`${message} ${JSON.stringify(fields)}`);
  const log: Log = { debug: write, info: write, warn: write, error: write };
  const clock = new FakeClock();
  const state = { taken: true, tries: 0 };
  const listener = new OptionalListener({
    what: "metrics",
    remedy: "choose another",
    log,
    clock,
    listen() {
      state.tries++;
      if (state.taken) throw new ImdsProxyError("port-taken", "the port is taken", "ss");
    },
  });
  return { lines, clock, state, listener };
}

describe("OptionalListener", () => {
  test("is no error where it cannot listen: it says so once, and is a finding", async () => {
    const { lines, clock, listener } = setUp();
    expect(lines).toEqual([expect.stringContaining("metrics cannot be served")]);
    expect(listener.finding()).toMatchObject({
      what: expect.stringContaining("the port is taken"),
      remedy: "choose another",
    });
    await clock.advance(10 * 60_000);
    expect(lines).toHaveLength(1);
  });

  test("tries again after 1 s, then at longer and longer times, of 30 s at most", async () => {
    const { clock, state } = setUp();
    expect(state.tries).toBe(1);
    await clock.advance(1_000);
    expect(state.tries).toBe(2);
    await clock.advance(1_999);
    expect(state.tries).toBe(2);
    await clock.advance(1);
    expect(state.tries).toBe(3);
    await clock.advance(60_000);
    const before = state.tries;
    await clock.advance(300_000);
    expect(state.tries).toBe(before + 10);
  });

  test("listens once it can, says so, and tries no more", async () => {
    const { lines, clock, state, listener } = setUp();
    state.taken = false;
    await clock.advance(1_000);
    expect(listener.finding()).toBeNull();
    expect(lines.at(-1)).toContain("served now: metrics");
    expect(clock.pending).toBe(0);
  });

  test("tries no more once it is stopped", () => {
    const { clock, listener } = setUp();
    listener.stop();
    expect(clock.pending).toBe(0);
  });
});
