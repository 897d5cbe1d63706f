/** A rate limit: a mean rate and a burst. */
export interface Rate {
  /** Tokens that are added in a second; above 0. */
  readonly perSecond: number;
  /** Tokens that a full bucket holds; at least 1. */
  readonly burst: number;
}

/**
 * A token bucket that reserves tokens in advance: a caller who finds it empty is told how long to wait for the token that is
 * reserved for them, so that callers are served in FIFO order. The state is one number, the moment at which the
 * bucket is full again (the "theoretical arrival time" of the generic cell rate algorithm, ITU-T I.371).
 */
export class TokenBucket {
  readonly #intervalMs: number;
  readonly #toleranceMs: number;
  readonly #longestMs: number;
  #fullAtMs = Number.NEGATIVE_INFINITY;

  /**
   * @param longestWaitMs how far ahead tokens are reserved, in milliseconds. It also bounds the wait after the wall clock was
   *   set back.
   */
  constructor({ perSecond, burst }: Rate, longestWaitMs: number) {
    this.#intervalMs = 1_000 / perSecond;
    this.#toleranceMs = (burst - 1) * this.#intervalMs;
    this.#longestMs = this.#toleranceMs + this.#intervalMs + longestWaitMs;
  }

  /** Milliseconds until the next token is there; 0 where one is. Takes none. */
  waitMs(nowMs: number): number {
    return Math.max(0, this.#fullAt(nowMs) - this.#toleranceMs - nowMs);
  }

  /** Takes or reserves the next token. Returns the milliseconds until it is there; 0 where it is. */
  take(nowMs: number): number {
    const waitMs = this.waitMs(nowMs);
    this.#fullAtMs = Math.max(this.#fullAt(nowMs), nowMs) + this.#intervalMs;
    return waitMs;
  }

  /** Whether a token is there and, after it is taken, the bucket is still filled to this share, 0 to 1. */
  hasToSpare(share: number, nowMs: number): boolean {
    return this.#fullAt(nowMs) - nowMs <= this.#toleranceMs * (1 - share);
  }

  /** Whether the bucket is full; then its state can be dropped. */
  isFull(nowMs: number): boolean {
    return this.#fullAt(nowMs) <= nowMs;
  }

  #fullAt(nowMs: number): number {
    return Math.min(this.#fullAtMs, nowMs + this.#longestMs);
  }
}
