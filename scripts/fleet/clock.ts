import type { Clock } from "../../src/platform/clock.ts";

interface Timer {
  run: (() => void) | null;
}

/**
 * A virtual clock for millions of timers: one list for each step of time, so that to schedule and to cancel cost the same however
 * many wait. A timer runs at the end of the step that it falls in; `now` moves from step to step.
 */
export class WheelClock implements Clock {
  readonly #startMs: number;
  readonly #stepMs: number;
  #step = 0;
  readonly #steps = new Map<number, Timer[]>();

  /** @param stepMs the length of a step, milliseconds. */
  constructor(stepMs: number, startMs: number = Date.UTC(2030, 0, 1)) {
    this.#stepMs = stepMs;
    this.#startMs = startMs;
  }

  /** Milliseconds since the start. */
  get elapsedMs(): number {
    return this.#step * this.#stepMs;
  }

  now(): number {
    return this.#startMs + this.elapsedMs;
  }

  bootMs(): number {
    return this.elapsedMs;
  }

  schedule(delayMs: number, run: () => void): () => void {
    const timer: Timer = { run };
    const at = this.#step + Math.max(1, Math.ceil(delayMs / this.#stepMs));
    const others = this.#steps.get(at);
    if (others === undefined) this.#steps.set(at, [timer]);
    else others.push(timer);
    // Nothing of a cancelled timer is kept but its place in the list.
    return () => {
      timer.run = null;
    };
  }

  /** Goes one step on, and runs what falls in it. Promises that this resolves are settled by the time that it returns. */
  async step(): Promise<void> {
    this.#step++;
    const due = this.#steps.get(this.#step);
    if (due === undefined) return;
    this.#steps.delete(this.#step);
    for (const timer of due) timer.run?.();
    await settle();
  }
}

/** Lets promises that can settle do so: those of the broker are a few deep. */
async function settle(): Promise<void> {
  for (let i = 0; i < 24; i++) await Promise.resolve();
}
