/** How far apart the node's calls of STS are kept at first when STS throttles, and at most. */
const FIRST_MS = 1_000;
const LONGEST_MS = 60_000;
/** The same while STS is away: each node then tries every five seconds or so, however many sessions it holds. */
const AWAY_MS = 5_000;
/** Failures in a row, of whichever sessions, after which STS counts as away: one or two may be those of one request. */
const AWAY_AFTER = 3;
/** By how much a success shortens the distance. It is doubled by throttling, so that about three of four calls succeed. */
const FASTER = 1.25;
/** Calls that may be this near together need no pace: it is what the node's rate limit allows by default (20 a second). */
const SHORTEST_MS = 50;
/** A pace is over when nothing has failed for so long. */
const OVER_AFTER_MS = 5 * 60_000;

/**
 * How fast this node may call STS, by what STS answered. AWS throttles the account, for all of its nodes together and for everything
 * else in it. If each session were tried again by itself, the calls of a large cluster would exceed the quota a hundredfold and
 * everybody in the account would be throttled; so the node as a whole slows down: it doubles the distance between calls when STS
 * throttles, and shortens it by a fifth with each success. Both are factors, so that the share of calls that succeed does not depend on
 * how many nodes there are (docs/scale.md). Without failures it does nothing.
 */
export class StsPace {
  readonly #random: () => number;
  /** 0 where calls are not paced. */
  #distanceMs = 0;
  /** The last call, and which part of the distance the next one waits, half to all of it: nodes must not call in step. */
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
    // A failure in the future was before the clock was set back.
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
   * STS throttled a call. Those that were under way together count once.
   *
   * @param calledAtMs when it was made.
   */
  throttled(calledAtMs: number, nowMs: number): void {
    const distanceMs = this.distanceMs(nowMs);
    if (distanceMs > 0 && calledAtMs <= this.#failedAtMs) return;
    this.#failedAtMs = nowMs;
    this.#distanceMs = distanceMs === 0 ? FIRST_MS : Math.min(distanceMs * 2, LONGEST_MS);
  }

  /** A call failed in another way that passes: no answer, a fault of STS's. */
  failed(nowMs: number): void {
    if (++this.#inARow < AWAY_AFTER) return;
    const distanceMs = this.distanceMs(nowMs);
    this.#failedAtMs = nowMs;
    this.#distanceMs = Math.max(distanceMs, AWAY_MS);
  }
}
