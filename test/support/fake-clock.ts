import type { Clock } from "../../src/platform/clock.ts";

interface Timer {
  readonly dueMs: number;
  readonly run: () => void;
}

/**
 * A clock that a test turns. Like the machine's it is several: `advance` moves all, and timers with them; `jump` moves
 * only the wall clock, as someone with `date -s` does; `sleep` moves all but the timers.
 */
export class FakeClock implements Clock {
  #monotonicMs = 0;
  #wallOffsetMs: number;
  #sleptMs = 0;
  /** In the order of scheduling. */
  readonly #timers = new Set<Timer>();

  /** @param startMs the wall clock at the start, milliseconds since the epoch. */
  constructor(startMs: number = Date.UTC(2030, 0, 1)) {
    this.#wallOffsetMs = startMs;
  }

  now(): number {
    return this.#wallOffsetMs + this.#monotonicMs;
  }

  /** The time that timers follow, in milliseconds. */
  get monotonicMs(): number {
    return this.#monotonicMs;
  }

  bootMs(): number {
    return this.#monotonicMs + this.#sleptMs;
  }

  schedule(delayMs: number, run: () => void): () => void {
    // As setTimeout does: what is negative means at once.
    const timer = { dueMs: this.#monotonicMs + Math.max(0, delayMs), run };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** Timers that have not run. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Lets time pass: runs what comes due, in order, and lets what each sets off finish before the next. */
  async advance(ms: number): Promise<void> {
    const untilMs = this.#monotonicMs + ms;
    await settle();
    for (let next = this.#nextBefore(untilMs); next !== null; next = this.#nextBefore(untilMs)) {
      this.#timers.delete(next);
      this.#monotonicMs = Math.max(this.#monotonicMs, next.dueMs);
      next.run();
      await settle();
    }
    this.#monotonicMs = untilMs;
    await settle();
  }

  /** Sets the wall clock forward, or back with a negative number; no timer notices. */
  jump(ms: number): void {
    this.#wallOffsetMs += ms;
  }

  /** The machine is suspended for so long: the wall clock goes on, and no timer notices. */
  sleep(ms: number): void {
    this.#sleptMs += ms;
    this.#wallOffsetMs += ms;
  }

  #nextBefore(untilMs: number): Timer | null {
    let first: Timer | null = null;
    for (const timer of this.#timers) {
      if (timer.dueMs <= untilMs && (first === null || timer.dueMs < first.dueMs)) first = timer;
    }
    return first;
  }
}

/** Lets every promise that can settle do so. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
