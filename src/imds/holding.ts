import type { Subject } from "../identity/caller.ts";
import type { Clock } from "../platform/clock.ts";
import type { FirstAttempt } from "../sessions/broker.ts";

/**
 * Answers that are held back while a caller's first session is being made.
 *
 * boto3, the AWS CLI, the SDKs for Java, Rust and JavaScript, and s3fs-fuse ask for a token, for the list of roles and for
 * the credentials, once each, and wait a second for each answer. Where STS takes longer than the last of these seconds,
 * they say "Unable to locate credentials". So STS is asked at the first of the three requests, and part of the wait is
 * spread over the first two answers.
 */

/** The longest that a list is held, in milliseconds: Go's SDK waits 500 for the head of any answer. */
const LIST_MS = 450;
/** What remains of Go's 500 ms for the way there and back; a lag of the event loop beyond it shortens the hold. */
const GO_MS = 490;
/** The longest that a token is held, in milliseconds; a client that waits in vain may use IMDSv1 for good. */
const TOKEN_MS = 200;
/** The event loop's lag, in milliseconds, above which no token is held. */
const MOST_LAG_MS = 50;
/** An attempt of this age, in milliseconds, will hardly end within the second that a client waits after the list. */
const YOUNG_MS = 2_000;
/** Answers held at once for one user: half of the requests that may wait, so that held ones leave room for others. */
const HELD_PER_USER = 512;

/** The attempt that may be worth to wait for; a promise where the caller's identity is not in memory. */
type Attempt = FirstAttempt | null | Promise<FirstAttempt | null>;

export class Holding {
  readonly #clock: Clock;
  readonly #lagMs: () => number;
  readonly #held = new Map<Subject, number>();

  /** @param options.lagMs how far the event loop is behind, in milliseconds. */
  constructor(options: { clock: Clock; lagMs: () => number }) {
    this.#clock = options.clock;
    this.#lagMs = options.lagMs;
  }

  /** When to answer with the list of roles: null for at once. Never rejects. */
  list(attempt: Attempt, user: Subject): Promise<void> | null {
    return attempt === null ? null : this.#hold(attempt, user, Math.min(LIST_MS, GO_MS - this.#lagMs()));
  }

  /** When to answer with a token: null for at once. Never rejects. */
  token(attempt: Attempt, user: Subject): Promise<void> | null {
    return attempt === null || this.#lagMs() > MOST_LAG_MS ? null : this.#hold(attempt, user, TOKEN_MS);
  }

  #hold(attempt: FirstAttempt | Promise<FirstAttempt | null>, user: Subject, limitMs: number) {
    const held = this.#held.get(user) ?? 0;
    if (held >= HELD_PER_USER || limitMs <= 0) return null;
    const over = attempt instanceof Promise ? this.#later(attempt, limitMs) : this.#wait(attempt, limitMs);
    if (over === null) return null;
    this.#held.set(user, held + 1);
    return over.then(() => {
      const left = (this.#held.get(user) ?? 0) - 1;
      if (left > 0) this.#held.set(user, left);
      else this.#held.delete(user);
    });
  }

  #wait(attempt: FirstAttempt | null, limitMs: number): Promise<void> | null {
    if (attempt === null) return null;
    const ageMs = this.#clock.now() - attempt.beganAtMs;
    return ageMs >= 0 && ageMs < YOUNG_MS ? attempt.wait(limitMs) : null;
  }

  /** Waits for an attempt that is not begun yet, no longer in all than the limit. */
  #later(attempt: Promise<FirstAttempt | null>, limitMs: number): Promise<void> {
    const over = Promise.withResolvers<void>();
    const cancel = this.#clock.schedule(limitMs, over.resolve);
    const end = () => {
      cancel();
      over.resolve();
    };
    attempt.then((begun) => this.#wait(begun, limitMs)).then(end, end);
    return over.promise;
  }
}
