/** The distance between the node's calls of STS: when STS begins to throttle, and at most. */
const FIRST_MS = 1_000;
const LONGEST_MS = 60_000;
/** The least distance while STS is away: each node then tries about every five seconds, however many sessions it holds. */
const AWAY_MS = 5_000;
/** How many failures in a row, of any sessions, mean that STS is away: one or two may be due to a single request. */
const AWAY_AFTER = 3;
/** A success divides the distance by this, and throttling doubles it. So about three of four calls succeed. */
const FASTER = 1.25;
/** Below this distance calls are not paced: the node's rate limit allows them this close together by default (20 a second). */
const SHORTEST_MS = 50;
/** Pacing ends when no call has failed for this long. */
const OVER_AFTER_MS = 5 * 60_000;

/**
 * Paces the node's calls of STS by what STS answers. AWS throttles a whole account: all of its nodes together, and everything
 * else in it. If each session were retried by itself, the calls of a large cluster would exceed the quota a hundredfold, and
 * everybody in the account would be throttled. So the node as a whole slows down: it doubles the distance between calls when STS
 * throttles, and shortens it by a fifth with each success. Both changes multiply the distance, so the share of calls that succeed
 * does not depend on the number of nodes (docs/scale.md). Without failures, calls are not paced.
 */
export class StsPace {
  readonly #random: () => number;
  /** 0 where calls are not paced. */
  #distanceMs = 0;
  /** When the last call was made, and the random part of the distance (0.5 to 1) that the next waits: nodes must not call in step. */
  #lastCallMs = Number.NEGATIVE_INFINITY;
  #jitter = 1;
  /** When the last failure was counted. */
  #failedAtMs = Number.NEGATIVE_INFINITY;
  #inARow = 0;

  /** @param random in [0, 1). */
  constructor(random: () => number) {
    this.#random = random;
  }

  /** The longest distance between two calls in milliseconds, of which a part is random; 0 where they are not paced. */
  distanceMs(nowMs: number): number {
    // A failure in the future was recorded before the clock was set back.
    const sinceMs = nowMs - this.#failedAtMs;
    if (sinceMs < 0 || sinceMs > OVER_AFTER_MS) this.#distanceMs = 0;
    return this.#distanceMs;
  }

  /** Milliseconds until a call may be made; 0 for now. */
  waitMs(nowMs: number): number {
    const distanceMs = this.distanceMs(nowMs);
    const sinceMs = nowMs - this.#lastCallMs;
    return distanceMs === 0 || sinceMs < 0 ? 0 : Math.max(0, distanceMs * this.#jitter - sinceMs);
  }

  /** A call is made now. */
  called(nowMs: number): void {
    this.#lastCallMs = nowMs;
    this.#jitter = 0.5 + this.#random() / 2;
  }

  succeeded(nowMs: number): void {
    this.#inARow = 0;
    const distanceMs = this.distanceMs(nowMs) / FASTER;
    this.#distanceMs = distanceMs < SHORTEST_MS ? 0 : distanceMs;
  }

  /**
   * STS throttled a call. Calls that were in flight together count once.
   *
   * @param calledAtMs when it was made.
   */
  throttled(calledAtMs: number, nowMs: number): void {
    const distanceMs = this.distanceMs(nowMs);
    if (distanceMs > 0 && calledAtMs <= this.#failedAtMs) return;
    this.#failedAtMs = nowMs;
    this.#distanceMs = distanceMs === 0 ? FIRST_MS : Math.min(distanceMs * 2, LONGEST_MS);
  }

  /** A call had another transient failure: no answer, or an error inside STS. */
  failed(nowMs: number): void {
    if (++this.#inARow < AWAY_AFTER) return;
    const distanceMs = this.distanceMs(nowMs);
    this.#failedAtMs = nowMs;
    this.#distanceMs = Math.max(distanceMs, AWAY_MS);
  }
}
