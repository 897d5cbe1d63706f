import { bootMs } from "./boot-time.ts";

/**
 * Time. This file alone calls Date.now, performance.now, setTimeout, setInterval and Bun.sleep (held by test/structure.test.ts),
 * so that all code that depends on time can be found, and a test can give it another clock.
 */
export interface Clock {
  /** Milliseconds since the epoch, by the wall clock, which can be set forward and back. */
  now(): number;
  /**
   * Milliseconds since the machine was started, including suspended time (CLOCK_BOOTTIME). It shows how much time has really
   * passed, even where the wall clock was set. Timers do not count suspended time.
   */
  bootMs(): number;
  /** Calls `run` once after `delayMs` milliseconds; the returned function cancels it. Does not keep the process alive. */
  schedule(delayMs: number, run: () => void): () => void;
}

/** The clock of the machine. */
export const systemClock: Clock = {
  now: () => Date.now(),
  bootMs,
  schedule(delayMs, run) {
    const timer = setTimeout(run, delayMs);
    timer.unref();
    return () => clearTimeout(timer);
  },
};

/** Milliseconds since some moment in the past, by the monotonic clock (CLOCK_MONOTONIC). */
export const monotonicMs = (): number => performance.now();

/**
 * Calls `run` once after `delayMs` milliseconds; the returned function cancels it. Keeps the process alive until then, which
 * {@link Clock.schedule} does not.
 */
export function after(delayMs: number, run: () => void): () => void {
  const timer = setTimeout(run, delayMs);
  return () => clearTimeout(timer);
}

/** Calls `run` every `intervalMs` milliseconds until the returned function is called. Does not keep the process alive. */
export function every(intervalMs: number, run: () => void): () => void {
  const timer = setInterval(run, intervalMs);
  timer.unref();
  return () => clearInterval(timer);
}

/** Resolves after `ms` milliseconds; keeps the process alive until then. */
export const sleep = (ms: number): Promise<void> => Bun.sleep(ms);

/** Blocks this thread for `ms` milliseconds. */
export const sleepSync = (ms: number): void => Bun.sleepSync(ms);
