import type { Subject } from "../identity/caller.ts";
import type { SessionRequest } from "./types.ts";

/**
 * Why an attempt was made: a caller asked for the session (`asked`) or is expected to (`early`), half of its life was over, or
 * the last attempt failed.
 */
export type AttemptReason = "asked" | "early" | "refresh" | "retry";

/** An event for the log and the metrics. Holds no secret. Times are milliseconds. */
export type SessionEvent =
  | {
      readonly type: "obtained";
      readonly request: SessionRequest;
      readonly reason: AttemptReason;
      readonly tookMs: number;
      /** Names the session in CloudTrail; not a secret. */
      readonly accessKeyId: string;
      readonly expiresAtMs: number;
    }
  | {
      readonly type: "denied" | "failed";
      readonly request: SessionRequest;
      readonly reason: AttemptReason;
      readonly tookMs: number;
      /** StsFailure's code. */
      readonly code: string;
      /** StsFailure's message: may be told to the caller. */
      readonly message: string;
      /** StsFailure's detail: for the log, not for the caller. */
      readonly detail: string;
      /** Until the next attempt, or until one is allowed again. */
      readonly againInMs: number;
      /** The end of the session that is served meanwhile; null where there is none. */
      readonly servingUntilMs: number | null;
    }
  | {
      readonly type: "dropped";
      readonly request: SessionRequest;
      /**
       * `ended`: it expired. `crowded`: it was evicted for another. `job-ended`: it was a Slurm job's, which is over. `withdrawn`:
       * the rules give it to nobody any more.
       */
      readonly reason: "ended" | "crowded" | "job-ended" | "withdrawn";
      /** Names the session in CloudTrail; null where there was none in memory. */
      readonly accessKeyId: string | null;
    }
  /** A call that is delayed or refused, because its user or the node exceeds the rate limit. */
  | {
      readonly type: "postponed";
      readonly request: SessionRequest;
      readonly owner: Subject;
      /** Until the call is made, or may be tried again. */
      readonly againInMs: number;
    };
