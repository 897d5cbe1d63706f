import type { Clock } from "./clock.ts";

/** The most alarms that run in one turn of the event loop. Thousands may be due together, and other work then runs in between. */
const AT_ONCE = 64;

/** A scheduled call. {@link Alarms.cancel} cancels it. */
export interface Alarm<T> {
  /** By the monotonic clock, in milliseconds. */
  readonly dueMs: number;
  /** Counts the alarms that were set. Of two with the same due time, the lower number runs first. */
  readonly order: number;
  readonly run: (of: T) => void;
  readonly of: T;
  /** Its index in the heap; -1 where it is not in the heap. */
  at: number;
}

/**
 * Any number of timers on one timer of the clock: a binary heap with the next due alarm first. This saves memory: a timer of the
 * runtime takes half a kilobyte with its function, an alarm a tenth of that (docs/benchmarks.md). An alarm may be a millisecond
 * late, so this is for delays of minutes.
 */
export class Alarms<T> {
  readonly #clock: Pick<Clock, "schedule">;
  readonly #monotonicMs: () => number;
  readonly #heap: Alarm<T>[] = [];
  #order = 0;
  /** When the clock's timer fires; infinite where none is set. */
  #armedMs = Number.POSITIVE_INFINITY;
  #disarm: () => void = () => {};

  constructor(options: { readonly clock: Pick<Clock, "schedule">; readonly monotonicMs: () => number }) {
    this.#clock = options.clock;
    this.#monotonicMs = options.monotonicMs;
  }

  /** The number of alarms that are set. */
  get size(): number {
    return this.#heap.length;
  }

  /** Calls `run(of)` once after `delayMs` milliseconds. */
  set(delayMs: number, run: (of: T) => void, of: T): Alarm<T> {
    // A negative delay or NaN means at once, as with a timer of the runtime.
    const dueMs = this.#monotonicMs() + Math.max(0, Number.isNaN(delayMs) ? 0 : delayMs);
    const alarm: Alarm<T> = { dueMs, order: this.#order++, run, of, at: this.#heap.length };
    this.#heap.push(alarm);
    this.#rise(alarm);
    if (dueMs < this.#armedMs) this.#arm();
    return alarm;
  }

  /** Cancels an alarm. Does nothing where it has run or was cancelled before. */
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
    // The clock's timer stays set, even where it was set for this alarm: it then fires once in vain. Where no alarm is left, it
    // is cleared.
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

  /** Sets the clock's timer for the first alarm. */
  #arm(): void {
    const first = this.#heap[0];
    if (first === undefined || first.dueMs >= this.#armedMs) return;
    this.#disarm();
    this.#armedMs = first.dueMs;
    // Rounded up to whole milliseconds. A fraction may be lost when it is added to a large time, and the timer would then fire
    // again at once.
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
