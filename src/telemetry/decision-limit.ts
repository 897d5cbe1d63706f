import { SmallMap } from "../platform/small-map.ts";
import { TokenBucket } from "../platform/token-bucket.ts";

/** The rate limit of the lines that a user causes: 60 at once, and then one in five seconds. */
const BURST = 60;
const PER_SECOND = 0.2;
/** The most users that are counted apart, and the most kinds of lines of one user. */
const MAX_USERS = 4_096;
const MAX_KEYS = 64;
/** How often idle users are looked for, in milliseconds, where there are too many. */
const FORGET_MS = 1_000;
/** The user under whom all further ones are counted. */
const OTHERS = "others";

interface OfUser {
  readonly bucket: TokenBucket;
  /** When the last line of each key was written, in milliseconds, for keys with an interval between lines. */
  readonly writtenMs: SmallMap<string, number>;
  lastMs: number;
  /** Decisions since the last line. */
  count: number;
}

/** Decisions of one user that are in no line yet. */
export interface Unwritten {
  readonly user: string;
  readonly count: number;
}

/**
 * Limits the lines about decisions by user, so that nobody can fill the journal or keep another user's lines out of it. What is
 * not written is counted, and the user's next line says how many decisions it stands for.
 */
export class DecisionLimit {
  readonly #now: () => number;
  readonly #users = new Map<string, OfUser>();
  #forgotMs = Number.NEGATIVE_INFINITY;

  /** @param now milliseconds of a monotonic clock. */
  constructor(now: () => number) {
    this.#now = now;
  }

  /**
   * Counts one decision.
   *
   * @param user whose limit it counts towards.
   * @param key decisions with the same key are one line in `againMs` milliseconds.
   * @returns the number of the user's decisions since their last line, this one included; null where no line may be written.
   */
  admit(user: string, key: string, againMs: number): number | null {
    const now = this.#now();
    const state = this.#stateOf(user, now);
    state.count++;
    const writtenMs = state.writtenMs.get(key);
    if (writtenMs !== undefined && now - writtenMs < againMs && now >= writtenMs) return null;
    return this.#write(state, againMs > 0 ? key : null, now);
  }

  /** The same for a decision that was counted before, and for which no line could be written then. */
  retry(user: string): number | null {
    const now = this.#now();
    return this.#write(this.#stateOf(user, now), null, now);
  }

  /**
   * The decisions of users whose last line is older than `ageMs` milliseconds. Their counts are reset here; the caller writes
   * them.
   */
  takeUnwritten(ageMs: number): Unwritten[] {
    const now = this.#now();
    this.#forgetNew(now);
    const found: Unwritten[] = [];
    for (const [user, state] of this.#users) {
      if (state.count === 0 || now - state.lastMs < ageMs) continue;
      found.push({ user, count: state.count });
      state.count = 0;
      state.lastMs = now;
    }
    return found;
  }

  #write(state: OfUser, key: string | null, now: number): number | null {
    if (state.bucket.waitMs(now) > 0) return null;
    state.bucket.take(now);
    if (key !== null) {
      if (state.writtenMs.size >= MAX_KEYS) state.writtenMs.clear();
      state.writtenMs.set(key, now);
    }
    const { count } = state;
    state.count = 0;
    state.lastMs = now;
    return Math.max(1, count);
  }

  #forgetIdle(now: number): void {
    if (now - this.#forgotMs < FORGET_MS) return;
    this.#forgotMs = now;
    for (const [user, { bucket, count }] of this.#users)
      if (count === 0 && bucket.isFull(now)) this.#users.delete(user);
  }

  /** Removes users whose state is that of a new one. */
  #forgetNew(now: number): void {
    for (const [user, { bucket, count, writtenMs }] of this.#users)
      if (count === 0 && writtenMs.size === 0 && bucket.isFull(now)) this.#users.delete(user);
  }

  #stateOf(user: string, now: number): OfUser {
    const known = this.#users.get(user);
    if (known !== undefined) return known;
    if (this.#users.size >= MAX_USERS) {
      this.#forgetIdle(now);
      if (this.#users.size >= MAX_USERS && user !== OTHERS) return this.#stateOf(OTHERS, now);
    }
    const made: OfUser = {
      bucket: new TokenBucket({ perSecond: PER_SECOND, burst: BURST }, 0),
      writtenMs: new SmallMap(),
      lastMs: now,
      count: 0,
    };
    this.#users.set(user, made);
    return made;
  }
}
