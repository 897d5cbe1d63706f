import type { Clock } from "./clock.ts";

/** How often the event loop is looked at, in milliseconds, and how many looks count. */
const EVERY_MS = 100;
const LOOKS = 20;

/** How far the event loop is behind: by how much a timer came late, the worst of the last two seconds. */
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

  /** Begins to look, until `stop`. */
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

  /** Milliseconds; 0 where nothing came late. A look that is overdue counts at once. */
  get lagMs(): number {
    return Math.max(this.#dueMs === 0 ? 0 : this.#monotonicMs() - this.#dueMs, ...this.#late);
  }
}
