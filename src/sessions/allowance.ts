import type { Subject } from "../identity/caller.ts";
import { type Rate, TokenBucket } from "../platform/token-bucket.ts";

/** How many AssumeRole calls may be made. */
export interface CallRates {
  /** By each owner, that is a user with all subordinate uids. */
  readonly user: Rate;
  /** By the node, for all of them. */
  readonly node: Rate;
}

/** The longest delay of a call in milliseconds. A call that would wait longer is refused, and takes no token. */
export const LONGEST_WAIT_MS = 10_000;

/**
 * The rate limit of STS calls: a token bucket for each owner, and one for the node. One user can have 65,536 uids, and where
 * the template of session names has the uid, each can have a session. Without a limit, these calls would exhaust the quota of
 * the whole AWS account (600 a second in a Region).
 */
export class CallAllowance {
  readonly #rates: CallRates;
  readonly #node: TokenBucket;
  readonly #users = new Map<Subject, TokenBucket>();

  constructor(rates: CallRates) {
    this.#rates = rates;
    this.#node = new TokenBucket(rates.node, LONGEST_WAIT_MS);
  }

  /** Owners whose bucket is not full. */
  get size(): number {
    return this.#users.size;
  }

  /**
   * Asks for one call. `granted`: it may be made in `waitMs` milliseconds, and its tokens are taken; else it may be asked
   * for again after `waitMs`.
   *
   * @param nowMs of a clock that is not set back.
   */
  ask(owner: Subject, nowMs: number): { readonly granted: boolean; readonly waitMs: number } {
    const user = this.#bucketOf(owner, nowMs);
    const waitMs = Math.max(user.waitMs(nowMs), this.#node.waitMs(nowMs));
    if (waitMs > LONGEST_WAIT_MS) return { granted: false, waitMs };
    user.take(nowMs);
    this.#node.take(nowMs);
    return { granted: true, waitMs };
  }

  /**
   * Counts a call that is made even if the buckets are empty: the refresh of a session in use. It must not wait behind new
   * sessions, and is rare: once in half a session's life.
   */
  count(owner: Subject, nowMs: number): void {
    this.#bucketOf(owner, nowMs).take(nowMs);
    this.#node.take(nowMs);
  }

  /** Whether the node's bucket has a token besides this share of its burst (0 to 1), which is left for others. Takes none. */
  hasForNode(nowMs: number, share = 0): boolean {
    return this.#node.hasToSpare(share, nowMs);
  }

  /** Counts a call for the node alone: one that is made before its owner has asked for anything. */
  countForNode(nowMs: number): void {
    this.#node.take(nowMs);
  }

  #bucketOf(owner: Subject, nowMs: number): TokenBucket {
    const known = this.#users.get(owner);
    if (known !== undefined) return known;
    // Full buckets are dropped, so that those remain whose owners called within the time that a bucket takes to fill.
    for (const [other, bucket] of this.#users) if (bucket.isFull(nowMs)) this.#users.delete(other);
    const bucket = new TokenBucket(this.#rates.user, LONGEST_WAIT_MS);
    this.#users.set(owner, bucket);
    return bucket;
  }
}
