import { type BrokerOptions, SessionBroker } from "../../src/sessions/broker.ts";
import type { Sts } from "../../src/sessions/calls.ts";
import type { SessionEvent } from "../../src/sessions/events.ts";
import { StsFailure } from "../../src/sessions/failure.ts";
import type { Session, SessionOutcome, SessionRequest } from "../../src/sessions/types.ts";
import { FakeClock } from "../support/fake-clock.ts";

export const SECOND = 1_000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

/** A request of alice's for an hour, with what the test wants different. */
export function aRequest(different: Partial<SessionRequest> = {}): SessionRequest {
  return {
    roleArn: "arn:aws:iam::842413447717:role/ImdsProxyTestRole",
    sessionName: "alice@i-0123",
    durationSeconds: 3600,
    sourceIdentity: null,
    tags: [],
    transitiveTagKeys: [],
    policyArns: [],
    policy: null,
    externalId: null,
    ...different,
  };
}

export const denied = () =>
  new StsFailure({ kind: "denied", code: "AccessDenied", message: "STS refuses", detail: "for the log" });
export const passing = (retryAfterMs: number | null = null) =>
  new StsFailure({ kind: "transient", code: "Throttling", message: "STS is asked too often", retryAfterMs });

/** One call that the fake STS has not answered. */
interface Call {
  readonly request: SessionRequest;
  readonly signal: AbortSignal;
  answer(): void;
  fail(error: unknown): void;
}

/**
 * An STS whose time is real (it does not follow jumps of the node's clock), that answers at once, or when the test
 * says so.
 */
export class FakeSts implements Sts {
  readonly requests: SessionRequest[] = [];
  /** Calls without an answer, where `manual`. */
  readonly open: Call[] = [];
  manual = false;
  /** Thrown at each call while it is set. */
  failing: (() => unknown) | null = null;
  readonly #clock: FakeClock;
  /** By how much the node's clock is ahead of the truth. */
  nodeAheadMs = 0;

  constructor(clock: FakeClock) {
    this.#clock = clock;
  }

  get calls(): number {
    return this.requests.length;
  }

  assumeRole(request: SessionRequest, signal: AbortSignal): Promise<Session> {
    this.requests.push(request);
    const { promise, resolve, reject } = Promise.withResolvers<Session>();
    const number = this.calls;
    const answer = () => resolve(this.#session(number, request));
    if (this.failing !== null) reject(this.failing());
    else if (this.manual) this.open.push({ request, signal, answer, fail: reject });
    else answer();
    return promise;
  }

  #session(number: number, request: SessionRequest): Session {
    const nowMs = this.#clock.now();
    return {
      accessKeyId: `ASIA${number}`,
      secretAccessKey: `secret-of-${number}`,
      sessionToken: `token-of-${number}`,
      expiresAtMs: nowMs - this.nodeAheadMs + request.durationSeconds * SECOND,
      obtainedAtMs: nowMs,
    };
  }
}

/** A broker with a clock to turn and an STS to command. `random` is 0: the refresh comes at exactly half life. */
export function aBroker(options: Partial<BrokerOptions> = {}) {
  const clock = new FakeClock();
  const sts = new FakeSts(clock);
  const events: SessionEvent[] = [];
  const broker = new SessionBroker({
    sts,
    clock,
    monotonicMs: () => clock.monotonicMs,
    random: () => 0,
    onEvent: (event) => void events.push(event),
    ...options,
  });
  return {
    clock,
    sts,
    events,
    broker,
    /** Turns the node's clock, and leaves the truth as it is. */
    jump(ms: number): void {
      clock.jump(ms);
      sts.nodeAheadMs += ms;
    },
  };
}

/** The session's key id ("ASIA1" is from the first AssumeRole), else the kind of outcome. */
export function idOf(outcome: SessionOutcome): string {
  return outcome.kind === "session" ? outcome.session.accessKeyId : outcome.kind;
}
