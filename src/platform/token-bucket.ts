/** How fast something may happen: so often in the long run, and so often at once. */
export interface Rate {
  /** Tokens that come in a second; above 0. */
  readonly perSecond: number;
  /** Tokens that a full bucket holds; at least 1. */
  readonly burst: number;
}

/**
 * A token bucket that gives tokens out in advance: who comes when it is empty is told how long to wait for a token that is
 * then theirs. So those who wait are served in the order in which they came. Kept as one number, the moment at which the
 * bucket is full again (the "theoretical arrival time" of the generic cell rate algorithm, ITU-T I.371).
 */
export class TokenBucket {
  readonly #intervalMs: number;
  readonly #toleranceMs: number;
  readonly #longestMs: number;
  #fullAtMs = Number.NEGATIVE_INFINITY;

  /**
   * @param longestWaitMs for how long ahead tokens are given out, in milliseconds. It also bounds what a wall clock that is
   *   set back can cost: nobody waits for the hour that it was set back by.
   */
  constructor({ perSecond, burst }: Rate, longestWaitMs: number) {
    this.#intervalMs = 1_000 / perSecond;
    this.#toleranceMs = (burst - 1) * this.#intervalMs;
    this.#longestMs = this.#toleranceMs + this.#intervalMs + longestWaitMs;
  }

  /** Milliseconds until a token could be taken; 0 for now. Takes none. */
  waitMs(nowMs: number): number {
    return Math.max(0, this.#fullAt(nowMs) - this.#toleranceMs - nowMs);
  }

  /** Takes the next token. Returns the milliseconds after which it is there, 0 for now. */
  take(nowMs: number): number {
    const waitMs = this.waitMs(nowMs);
    this.#fullAtMs = Math.max(this.#fullAt(nowMs), nowMs) + this.#intervalMs;
    return waitMs;
  }

  /** Whether a token is there, with this share of a full bucket to spare, 0 to 1. */
  hasToSpare(share: number, nowMs: number): boolean {
    return this.#fullAt(nowMs) - nowMs <= this.#toleranceMs * (1 - share);
  }

  /** Whether all its tokens are there: then it can be forgotten. */
  isFull(nowMs: number): boolean {
    return this.#fullAt(nowMs) <= nowMs;
  }

  #fullAt(nowMs: number): number {
    return Math.min(this.#fullAtMs, nowMs + this.#longestMs);
  }
}
