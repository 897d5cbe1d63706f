import type { Subject } from "../identity/caller.ts";
import type { Clock } from "../platform/clock.ts";
import type { FirstAttempt } from "../sessions/broker.ts";

/**
 * Holds answers back while a caller's first session is being made.
 *
 * boto3, the AWS CLI, the SDKs for Java, Rust and JavaScript, and s3fs-fuse request a token, the list of roles and the
 * credentials, once each, and wait one second for each answer. Where STS takes longer than the second for the credentials,
 * they fail with "Unable to locate credentials". So STS is asked at the first of the three requests, and the first two
 * answers are held back for a part of the time that STS takes.
 */

/** The longest hold of a list in milliseconds: Go's SDK waits 500 for the head of any answer. */
const LIST_MS = 450;
/** Go's 500 ms less the time that the answer is on its way. The event loop's lag and the hold of a list fit into it. */
const GO_MS = 490;
/** The longest hold of a token in milliseconds. It is short, because a client without an answer may use IMDSv1 from then on. */
const TOKEN_MS = 200;
/** The lag of the event loop in milliseconds above which no token is held. */
const MAX_LAG_MS = 50;
/** Attempts older than this, in milliseconds, are not waited for: they will hardly end within the client's second. */
const YOUNG_MS = 2_000;
/** Answers held at one time for one user: a tenth of the connections that one user may have, so that their other requests find room. */
const HELD_PER_USER = 512;

/** Holds answers back. Each method resolves when the answer is to be given, and never rejects. */
export class Holding {
  readonly #clock: Clock;
  readonly #lagMs: () => number;
  /** Answers that are held, by user. */
  readonly #held = new Map<Subject, number>();

  /** @param options.lagMs how far the event loop is behind, in milliseconds. */
  constructor(options: { clock: Clock; lagMs: () => number }) {
    this.#clock = options.clock;
    this.#lagMs = options.lagMs;
  }

  /** Holds a list of roles. @param attempt the caller's first attempt; null where there is none to wait for. */
  async list(attempt: FirstAttempt | null, user: Subject): Promise<void> {
    if (attempt === null || !this.#isYoung(attempt)) return;
    const limitMs = Math.min(LIST_MS, GO_MS - this.#lagMs());
    if (limitMs > 0) await this.#hold(user, () => attempt.wait(limitMs));
  }

  /** Holds a token. @param attempt as above; a promise, because the caller's identity may not be in memory. */
  async token(attempt: Promise<FirstAttempt | null>, user: Subject): Promise<void> {
    if (this.#lagMs() <= MAX_LAG_MS) await this.#hold(user, () => this.#waitFor(attempt, TOKEN_MS));
  }

  async #hold(user: Subject, wait: () => Promise<void> | null): Promise<void> {
    const held = this.#held.get(user) ?? 0;
    if (held >= HELD_PER_USER) return;
    this.#held.set(user, held + 1);
    await wait();
    const left = (this.#held.get(user) ?? 0) - 1;
    if (left > 0) this.#held.set(user, left);
    else this.#held.delete(user);
  }

  #isYoung(attempt: FirstAttempt): boolean {
    const ageMs = this.#clock.now() - attempt.beganAtMs;
    return ageMs >= 0 && ageMs < YOUNG_MS;
  }

  /** Waits for an attempt that may not have begun yet. The limit, in milliseconds, is that of both waits together. */
  #waitFor(attempt: Promise<FirstAttempt | null>, limitMs: number): Promise<void> {
    const over = Promise.withResolvers<void>();
    const cancel = this.#clock.schedule(limitMs, over.resolve);
    const end = () => {
      cancel();
      over.resolve();
    };
    attempt
      .then((begun) => (begun !== null && this.#isYoung(begun) ? begun.wait(limitMs) : undefined))
      .then(end, end);
    return over.promise;
  }
}
