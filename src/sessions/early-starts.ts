import type { Subject } from "../identity/caller.ts";

/** Early starts of one owner in one window, and the window in milliseconds. */
const STARTS = 16;
const WINDOW_MS = 60_000;
/** Requests and owners that are remembered. */
const MOST = 8_192;

/**
 * Limits the sessions that are begun before anybody has asked for credentials. A program that asks for tokens may want only
 * metadata, for years. So a request is begun early once in a session's life, whether that succeeds or not. The limit of an
 * owner is apart from the rate limit of what they ask for: an owner who exceeds it is served without early starts.
 */
export class EarlyStarts {
  /** Until when each request is not begun early again, the oldest first. */
  readonly #until = new Map<string, number>();
  readonly #windows = new Map<Subject, { beganMs: number; starts: number }>();

  /**
   * Whether this request may be begun early now; it counts as begun then.
   *
   * @param lifeMs how long a session of this request lives.
   */
  take(key: string, owner: Subject, lifeMs: number, nowMs: number): boolean {
    const until = this.#until.get(key);
    // An end further away than a whole life comes from before the clock was set back.
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
