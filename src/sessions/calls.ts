import type { Subject } from "../identity/caller.ts";
import type { Clock } from "../platform/clock.ts";
import { FairSlots } from "../platform/fair-slots.ts";
import { StsFailure } from "./failure.ts";
import { StsPace } from "./pace.ts";
import { isThrottlingCode } from "./sts-failures.ts";
import type { Session, SessionRequest } from "./types.ts";

/** What the broker needs of STS. src/sessions/sts.ts implements it. */
export interface Sts {
  /**
   * One attempt, without retries of its own: the broker retries.
   *
   * @param signal aborted when the broker gives up the attempt.
   * @throws StsFailure. Any other error counts as a transient failure, and its text is not shown.
   */
  assumeRole(request: SessionRequest, signal: AbortSignal): Promise<Session>;
}

/**
 * The turn of a call that waits. Others who want the same session join it, and it comes when the first of them has their turn: nobody
 * waits behind the queue of whoever asked first.
 */
export class Turn {
  /** Resolves when it begins, to a function that ends the turn. The caller must call it exactly once. */
  readonly begun: Promise<() => void>;
  readonly #slots: FairSlots<Subject>;
  readonly #begin: (end: () => void) => void;
  /** Those who wait, with what takes them out of the queue. */
  readonly #waiting = new Map<Subject, () => void>();
  #hasBegun = false;

  constructor(slots: FairSlots<Subject>, owner: Subject) {
    this.#slots = slots;
    const { promise, resolve } = Promise.withResolvers<() => void>();
    this.begun = promise;
    this.#begin = resolve;
    this.join(owner);
  }

  /** Waits for the turn of one more owner as well. */
  join(owner: Subject): void {
    if (this.#hasBegun || this.#waiting.has(owner)) return;
    const leave = this.#slots.wait(owner, (end) => {
      this.#hasBegun = true;
      for (const takeOut of this.#waiting.values()) takeOut();
      this.#waiting.clear();
      this.#begin(end);
    });
    if (!this.#hasBegun) this.#waiting.set(owner, leave);
  }
}

export interface StsCallsOptions {
  readonly sts: Sts;
  readonly clock: Clock;
  /** A number in [0, 1), for jitter. */
  readonly random: () => number;
  /** The deadline of a call in milliseconds, from its turn on. */
  readonly attemptMs: number;
  /** Calls at one time; no owner has more than half of them. */
  readonly maxConcurrent: number;
}

/**
 * Calls STS: each call waits for its turn, which goes round-robin between owners and is paced by what STS answered before, and has
 * a deadline.
 */
export class StsCalls {
  readonly #sts: Sts;
  readonly #clock: Clock;
  readonly #attemptMs: number;
  readonly #slots: FairSlots<Subject>;
  readonly #pace: StsPace;
  readonly #attempts = new Set<AbortController>();

  constructor({ sts, clock, random, attemptMs, maxConcurrent }: StsCallsOptions) {
    this.#sts = sts;
    this.#clock = clock;
    this.#attemptMs = attemptMs;
    const pace = new StsPace(random);
    this.#pace = pace;
    this.#slots = new FairSlots<Subject>(maxConcurrent, Math.ceil(maxConcurrent / 2), {
      waitMs: () => pace.waitMs(clock.now()),
      passed: () => pace.called(clock.now()),
      schedule: (delayMs, run) => clock.schedule(delayMs, run),
    });
  }

  /** Calls in flight. */
  get inFlight(): number {
    return this.#slots.inUse;
  }

  /** Whether calls are paced, because STS throttles or is away. */
  isPaced(nowMs: number): boolean {
    return this.#pace.distanceMs(nowMs) > 0;
  }

  /**
   * Estimates how long the last queued call of this owner waits for its turn, in milliseconds; 0 where calls are not paced. Turns are
   * round-robin between owners, so of another owner's queue at most as many calls count as this owner has queued.
   */
  turnInMs(owner: Subject): number {
    const nowMs = this.#clock.now();
    const turns = this.#slots.turnsBefore(owner);
    return turns === null ? 0 : this.#pace.waitMs(nowMs) + this.#pace.distanceMs(nowMs) * turns;
  }

  /** Queues a call of this owner. */
  turn(owner: Subject): Turn {
    return new Turn(this.#slots, owner);
  }

  /**
   * One call, in a turn. The deadline holds even if STS and the SDK do not answer.
   *
   * @throws StsFailure, or what {@link Sts.assumeRole} throws besides. The caller reports it by {@link failed}.
   */
  async assumeRole(request: SessionRequest): Promise<Session> {
    const attempt = new AbortController();
    const givenUp = Promise.withResolvers<never>();
    attempt.signal.addEventListener("abort", () =>
      givenUp.reject(
        new StsFailure({
          kind: "transient",
          code: "timeout",
          message: "STS did not answer in time; try again shortly",
        }),
      ),
    );
    const cancel = this.#clock.schedule(this.#attemptMs, () => attempt.abort());
    this.#attempts.add(attempt);
    try {
      const session = await Promise.race([this.#sts.assumeRole(request, attempt.signal), givenUp.promise]);
      this.#pace.succeeded(this.#clock.now());
      return session;
    } finally {
      cancel();
      this.#attempts.delete(attempt);
    }
  }

  /**
   * Paces further calls by a failure. A denial counts as a success: STS answered, and did not throttle.
   *
   * @param startedAtMs when the call was made.
   */
  failed({ kind, code }: StsFailure, startedAtMs: number): void {
    const nowMs = this.#clock.now();
    if (kind === "denied") this.#pace.succeeded(nowMs);
    else if (isThrottlingCode(code)) this.#pace.throttled(startedAtMs, nowMs);
    else this.#pace.failed(nowMs);
  }

  /** Aborts the calls in flight, and lets those that wait have their turn at once, so that they end. */
  stop(): void {
    this.#slots.removeGate();
    for (const attempt of this.#attempts) attempt.abort();
  }
}
