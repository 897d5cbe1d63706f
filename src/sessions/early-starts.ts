import type { Subject } from "../identity/caller.ts";

/** The most early starts of one owner in one window, and the length of the window in milliseconds. */
const STARTS = 16;
const WINDOW_MS = 60_000;
/** The most requests, and the most owners, that are remembered. */
const MOST = 8_192;

/**
 * Limits early starts. A program that asks for tokens may run for years and read only metadata, and then needs no session. So a
 * request has one early start in a session's life, whether that succeeds or not. Each owner also has a limit of their own, apart
 * from the rate limit of their requests: an owner who exceeds it is served without early starts.
 */
export class EarlyStarts {
  /** For each request, the time before which it has no further early start. The oldest entry is the first. */
  readonly #until = new Map<string, number>();
  readonly #windows = new Map<Subject, { beganMs: number; starts: number }>();

  /**
   * Whether this request may have an early start now. Where it may, the start is counted.
   *
   * @param lifeMs how long a session of this request lives.
   */
  take(key: string, owner: Subject, lifeMs: number, nowMs: number): boolean {
    const until = this.#until.get(key);
    // A time further ahead than a whole life was written before the clock was set back, and no longer counts.
    if (until !== undefined && nowMs < until && until - nowMs <= lifeMs) return false;
    if (!this.#takeOf(owner, nowMs)) return false;
    this.#until.delete(key);
    this.#until.set(key, nowMs + lifeMs);
    dropOldest(this.#until);
    return true;
  }

  #takeOf(owner: Subject, nowMs: number): boolean {
    const known = this.#windows.get(owner);
    const current = known !== undefined && nowMs >= known.beganMs && nowMs - known.beganMs < WINDOW_MS;
    const window = current ? known : { beganMs: nowMs, starts: 0 };
    if (window.starts >= STARTS) return false;
    window.starts++;
    this.#windows.delete(owner);
    this.#windows.set(owner, window);
    dropOldest(this.#windows);
    return true;
  }
}

function dropOldest(map: Map<unknown, unknown>): void {
  if (map.size <= MOST) return;
  map.delete(map.keys().next().value);
}
