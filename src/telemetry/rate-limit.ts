/** Keys that are counted apart at one time, and the key that all further ones share. */
const MAX_KEYS = 100;
const OTHERS = "others";

/**
 * A rate limit on log lines, by key. Users can cause events as often as they like; with this they cannot fill the journal.
 * Each line that is written says how often its event happened since the last one.
 */
export class RateLimitedLog {
  readonly #intervalMs: number;
  readonly #now: () => number;
  readonly #windows = new Map<string, { startMs: number; count: number }>();

  /**
   * @param options.intervalMs milliseconds between two lines of one key.
   * @param options.now milliseconds of any clock.
   */
  constructor(options: { intervalMs: number; now: () => number }) {
    this.#intervalMs = options.intervalMs;
    this.#now = options.now;
  }

  /**
   * Counts one event, and writes a line unless one of the same key was written within the interval.
   *
   * @param write gets the number of events since the last line of this key, this one included.
   */
  write(key: string, write: (count: number) => void): void {
    const now = this.#now();
    const window = this.#windows.get(key);
    if (window !== undefined && now - window.startMs < this.#intervalMs && now >= window.startMs) {
      window.count++;
      return;
    }
    if (window === undefined && this.#windows.size >= MAX_KEYS) {
      for (const [other, { startMs }] of this.#windows) {
        if (now - startMs >= this.#intervalMs) this.#windows.delete(other);
      }
      // A user with thousands of subordinate uids has thousands of keys: those beyond the limit share one line.
      if (this.#windows.size >= MAX_KEYS && key !== OTHERS) {
        this.write(OTHERS, write);
        return;
      }
    }
    this.#windows.set(key, { startMs: now, count: 0 });
    write((window?.count ?? 0) + 1);
  }
}
