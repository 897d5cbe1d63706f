import type { Subject } from "../identity/caller.ts";
import { type Rate, TokenBucket } from "../platform/token-bucket.ts";

/** The rate limits of AssumeRole calls. */
export interface CallRates {
  /** For each owner, that is a user with all subordinate uids. */
  readonly user: Rate;
  /** For the node, all owners together. */
  readonly node: Rate;
}

/** The longest delay of a call in milliseconds. A call that would wait longer is refused, and takes no token. */
export const LONGEST_WAIT_MS = 10_000;

/** The rate up to which an owner's calls count as few: that of a person who logs in. Subordinate uids and many jobs make more. */
const FEW: Rate = { perSecond: 1 / 30, burst: 2 };
/** The share of the node's calls that owners with more than a few can have, all together. */
const OTHERS_SHARE = 3 / 4;

/** The buckets of one owner. */
interface Owner {
  readonly all: TokenBucket;
  /** Has a token while the owner has made few calls. */
  readonly few: TokenBucket;
}

/**
 * The rate limit of STS calls: a token bucket for each owner, and one for the node. One user can have 65,536 uids, and where
 * the template of session names has the uid, each can have a session. Without a limit, these calls would exhaust the quota of
 * the whole AWS account (600 a second in a Region).
 *
 * The node's bucket grants calls in the order in which they are asked for, so ten such users could empty it for everybody. So a
 * quarter of it is reserved for owners who make few calls.
 */
export class CallAllowance {
  readonly #rates: CallRates;
  readonly #node: TokenBucket;
  /** The part of the node's bucket that owners with more than a few calls share. */
  readonly #many: TokenBucket;
  readonly #users = new Map<Subject, Owner>();

  constructor(rates: CallRates) {
    this.#rates = rates;
    this.#node = new TokenBucket(rates.node, LONGEST_WAIT_MS);
    const { perSecond, burst } = rates.node;
    const many = {
      perSecond: perSecond * OTHERS_SHARE,
      burst: Math.max(1, Math.floor(burst * OTHERS_SHARE)),
    };
    this.#many = new TokenBucket(many, LONGEST_WAIT_MS);
  }

  /** Owners whose bucket is not full. */
  get size(): number {
    return this.#users.size;
  }

  /**
   * Asks for one call. `granted`: it may be made in `waitMs` milliseconds, and its tokens are taken; else it may be asked
   * for again after `waitMs`.
   *
   * @param nowMs milliseconds of a monotonic clock: by one that is set back, nobody would be granted a call until it has caught up.
   * @param mostMs a call that would have to wait longer is not granted. Default 10 s.
   */
  ask(
    owner: Subject,
    nowMs: number,
    mostMs = LONGEST_WAIT_MS,
  ): { readonly granted: boolean; readonly waitMs: number } {
    const { all, few } = this.#ownerOf(owner, nowMs);
    const buckets = [all, this.#node, few.waitMs(nowMs) === 0 ? few : this.#many];
    const waitMs = Math.max(...buckets.map((bucket) => bucket.waitMs(nowMs)));
    if (waitMs > mostMs) return { granted: false, waitMs };
    for (const bucket of buckets) bucket.take(nowMs);
    return { granted: true, waitMs };
  }

  /**
   * Counts a call that is made even if the buckets are empty: the refresh of a session in use. It must not wait behind new
   * sessions, and is rare: once in half a session's life.
   */
  count(owner: Subject, nowMs: number): void {
    this.#ownerOf(owner, nowMs).all.take(nowMs);
    this.#node.take(nowMs);
  }

  /** Whether the node's bucket has a token beyond this share of its burst (0 to 1), which is reserved for other calls. Takes none. */
  hasForNode(nowMs: number, share = 0): boolean {
    return this.#node.hasToSpare(share, nowMs);
  }

  /** Counts a call for the node alone, not for its owner: that of an early start. */
  countForNode(nowMs: number): void {
    this.#node.take(nowMs);
  }

  #ownerOf(owner: Subject, nowMs: number): Owner {
    const known = this.#users.get(owner);
    if (known !== undefined) return known;
    // A full bucket is like a new one, so it is dropped. The map then holds only owners who called within the last refill time.
    for (const [other, { all, few }] of this.#users)
      if (all.isFull(nowMs) && few.isFull(nowMs)) this.#users.delete(other);
    const made = {
      all: new TokenBucket(this.#rates.user, LONGEST_WAIT_MS),
      few: new TokenBucket(FEW, LONGEST_WAIT_MS),
    };
    this.#users.set(owner, made);
    return made;
  }
}
