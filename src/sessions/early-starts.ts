import type { Subject } from "../identity/caller.ts";

/** Sessions that are begun early for one owner in one window, and how long a window is, in milliseconds. */
const STARTS = 16;
const WINDOW_MS = 60_000;
/** Requests, and owners, that are remembered. */
const MOST = 8_192;

/**
 * Which sessions may be begun before anybody has asked for credentials. A program that asks for a token may want nothing
 * but metadata, for years: so a session is begun early once in its life, whether it was made, denied or failed. This is
 * counted apart from what an owner may ask for: whoever uses it up is served as if nothing were begun early.
 */
export class EarlyStarts {
  /** Until when a request is not begun early again; the longest remembered first. */
  readonly #until = new Map<string, number>();
  readonly #windows = new Map<Subject, { beganMs: number; starts: number }>();

  /**
   * Whether this request may be begun early now; it counts as begun then.
   *
   * @param lifeMs how long a session of this request lives.
   */
  take(key: string, owner: Subject, lifeMs: number, nowMs: number): boolean {
    const until = this.#until.get(key);
    // An end that is further away than a life is from before the clock was set back.
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
