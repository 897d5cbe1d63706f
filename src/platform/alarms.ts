import type { Clock } from "./clock.ts";

/** How many alarms go off in one go, so that thousands that are due together leave the event loop for others in between. */
const AT_ONCE = 64;

/** A call that is due; {@link Alarms.cancel} takes it. */
export interface Alarm<T> {
  /** By the monotonic clock, in milliseconds. */
  readonly dueMs: number;
  /** Of two that are due at the same moment the lower one is first. */
  readonly order: number;
  readonly run: (of: T) => void;
  readonly of: T;
  /** Its place in the heap; -1 where it is in none. */
  at: number;
}

/**
 * Any number of timers on one timer of the clock: a binary heap, whose first one is due next. A timer of the runtime and the
 * function that it calls take half a kilobyte, and one here a tenth of that (docs/benchmarks.md). Meant for what is mostly minutes
 * away: an alarm may be a millisecond late.
 */
export class Alarms<T> {
  readonly #clock: Pick<Clock, "schedule">;
  readonly #monotonicMs: () => number;
  readonly #heap: Alarm<T>[] = [];
  #order = 0;
  /** When the clock's timer goes off; infinite where there is none. */
  #armedMs = Number.POSITIVE_INFINITY;
  #disarm: () => void = () => {};

  constructor(options: { readonly clock: Pick<Clock, "schedule">; readonly monotonicMs: () => number }) {
    this.#clock = options.clock;
    this.#monotonicMs = options.monotonicMs;
  }

  /** Those that wait. */
  get size(): number {
    return this.#heap.length;
  }

  /** Calls `run(of)` once after `delayMs` milliseconds. */
  set(delayMs: number, run: (of: T) => void, of: T): Alarm<T> {
    // As with a timer of the runtime: what is negative, or no number, means at once.
    const dueMs = this.#monotonicMs() + Math.max(0, Number.isNaN(delayMs) ? 0 : delayMs);
    const alarm: Alarm<T> = { dueMs, order: this.#order++, run, of, at: this.#heap.length };
    this.#heap.push(alarm);
    this.#rise(alarm);
    if (dueMs < this.#armedMs) this.#arm();
    return alarm;
  }

  /** Does nothing where it has gone off, or was cancelled. */
  cancel(alarm: Alarm<T>): void {
    const { at } = alarm;
    if (at < 0) return;
    alarm.at = -1;
    const last = this.#heap.pop();
    if (last !== undefined && last !== alarm) {
      last.at = at;
      this.#heap[at] = last;
      this.#rise(last);
      this.#sink(last);
    }
    // A timer that is armed for one that is no more goes off for nothing, once; where none is left it must not.
    if (this.#heap.length > 0) return;
    this.#disarm();
    this.#armedMs = Number.POSITIVE_INFINITY;
  }

  #goOff(): void {
    this.#armedMs = Number.POSITIVE_INFINITY;
    const nowMs = this.#monotonicMs();
    try {
      for (let count = 0; count < AT_ONCE; count++) {
        const first = this.#heap[0];
        if (first === undefined || first.dueMs > nowMs) break;
        this.cancel(first);
        first.run(first.of);
      }
    } finally {
      this.#arm();
    }
  }

  /** Sets the clock's timer for the first one. */
  #arm(): void {
    const first = this.#heap[0];
    if (first === undefined || first.dueMs >= this.#armedMs) return;
    this.#disarm();
    this.#armedMs = first.dueMs;
    // Whole milliseconds: a smaller rest may be lost in the sum with a moment, and the timer would find it again at once.
    const delayMs = Math.max(0, Math.ceil(first.dueMs - this.#monotonicMs()));
    this.#disarm = this.#clock.schedule(delayMs, () => this.#goOff());
  }

  #rise(alarm: Alarm<T>): void {
    for (;;) {
      const parent = this.#heap[(alarm.at - 1) >> 1];
      if (alarm.at === 0 || parent === undefined || !isBefore(alarm, parent)) return;
      this.#swap(alarm, parent);
    }
  }

  #sink(alarm: Alarm<T>): void {
    for (;;) {
      const left = this.#heap[2 * alarm.at + 1];
      const right = this.#heap[2 * alarm.at + 2];
      const first = left !== undefined && right !== undefined && isBefore(right, left) ? right : left;
      if (first === undefined || !isBefore(first, alarm)) return;
      this.#swap(first, alarm);
    }
  }

  #swap(a: Alarm<T>, b: Alarm<T>): void {
    const { at } = a;
    a.at = b.at;
    b.at = at;
    this.#heap[a.at] = a;
    this.#heap[b.at] = b;
  }
}

const isBefore = <T>(a: Alarm<T>, b: Alarm<T>): boolean =>
  a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.order < b.order);
