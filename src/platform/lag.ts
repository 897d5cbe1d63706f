import type { Clock } from "./clock.ts";

/** The interval of the probing timer, in milliseconds, and how many of its samples are kept. */
const EVERY_MS = 100;
const LOOKS = 20;

/** Measures the event loop's lag: by how much a timer fired late, at worst within the last two seconds. */
export class LagMeter {
  readonly #clock: Pick<Clock, "schedule">;
  readonly #monotonicMs: () => number;
  readonly #late = new Array<number>(LOOKS).fill(0);
  #at = 0;
  #dueMs = 0;
  #cancel: () => void = () => {};

  constructor(options: { clock: Pick<Clock, "schedule">; monotonicMs: () => number }) {
    this.#clock = options.clock;
    this.#monotonicMs = options.monotonicMs;
  }

  /** Starts the timer; `stop` ends it. */
  start(): void {
    this.#dueMs = this.#monotonicMs() + EVERY_MS;
    this.#cancel = this.#clock.schedule(EVERY_MS, () => {
      this.#late[this.#at++ % LOOKS] = Math.max(0, this.#monotonicMs() - this.#dueMs);
      this.start();
    });
  }

  stop(): void {
    this.#cancel();
  }

  /** The lag in milliseconds. A timer that is overdue counts before it fires. */
  get lagMs(): number {
    return Math.max(this.#dueMs === 0 ? 0 : this.#monotonicMs() - this.#dueMs, ...this.#late);
  }
}
