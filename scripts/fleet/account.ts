import type { Clock } from "../../src/platform/clock.ts";
import { type Rate, TokenBucket } from "../../src/platform/token-bucket.ts";
import type { Sts } from "../../src/sessions/calls.ts";
import { classify } from "../../src/sessions/sts-failures.ts";
import type { Session, SessionRequest } from "../../src/sessions/types.ts";

/**
 * The calls that an AWS account may make of STS in a Region. "IAM and AWS STS quotas", IAM User Guide, under "AWS STS requests": 600
 * requests per second, per account, per Region, together for AssumeRole, DecodeAuthorizationMessage, GetAccessKeyInfo,
 * GetCallerIdentity, GetFederationToken and GetSessionToken. That it is a token bucket, refilled each second, is said in "How to
 * monitor and query IAM resources at scale, part 2" (AWS Security Blog); its burst is not published, and taken for one second's calls.
 */
export const ACCOUNT_QUOTA: Rate = { perSecond: 600, burst: 600 };

/** As the SDK for JavaScript throws what STS says: the broker's own code reads it. */
const THROTTLED = {
  ...{ name: "Throttling", Code: "Throttling", $fault: "client", message: "Rate exceeded" },
  $metadata: { httpStatusCode: 400 },
};
const UNAVAILABLE = {
  ...{ name: "ServiceUnavailable", Code: "ServiceUnavailable", $fault: "server", message: "" },
  $metadata: { httpStatusCode: 503 },
};

const LATENCY_MS = 150;

/** STS as one account sees it: answers what the quota allows, throttles the rest, and fails while it is away. */
export class AccountSts implements Sts {
  readonly #clock: Clock;
  readonly #bucket: TokenBucket;
  isAway = false;
  /** Calls since the last look, by outcome; whoever looks sets them to 0. */
  granted = 0;
  throttled = 0;
  failed = 0;

  constructor(clock: Clock, quota: Rate) {
    this.#clock = clock;
    this.#bucket = new TokenBucket(quota, 0);
  }

  assumeRole(request: SessionRequest, _signal: AbortSignal): Promise<Session> {
    const { promise, resolve, reject } = Promise.withResolvers<Session>();
    const nowMs = this.#clock.now();
    let answer: () => void;
    if (this.isAway) {
      this.failed++;
      answer = () => reject(classify(UNAVAILABLE, request));
    } else if (this.#bucket.waitMs(nowMs) > 0) {
      this.throttled++;
      answer = () => reject(classify(THROTTLED, request));
    } else {
      this.#bucket.take(nowMs);
      this.granted++;
      answer = () => resolve(sessionOf(request, nowMs));
    }
    this.#clock.schedule(LATENCY_MS, answer);
    return promise;
  }
}

function sessionOf(request: SessionRequest, nowMs: number): Session {
  return {
    ...{ accessKeyId: "ASIA", secretAccessKey: "of the simulation", sessionToken: "of the simulation" },
    ...{ expiresAtMs: nowMs + request.durationSeconds * 1_000, obtainedAtMs: nowMs },
  };
}
