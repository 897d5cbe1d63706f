import type { TurnedAway } from "../http/server.ts";
import type { UnavailableEvent } from "../identity/accounts.ts";
import type { RequestEvent } from "../imds/request-event.ts";
import { monotonicMs } from "../platform/clock.ts";
import type { SessionEvent } from "../sessions/events.ts";
import type { Audit } from "../telemetry/audit.ts";
import type { Log } from "../telemetry/log.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import { RateLimitedLog } from "../telemetry/rate-limit.ts";

/** Milliseconds between two log lines about one kind of event that users cause. */
const EVENT_INTERVAL_MS = 10_000;

/**
 * Where events go: decisions to the audit, the others to the log, with a rate limit where users cause them; all of them to the
 * metrics once these are attached.
 *
 * @param now milliseconds of a monotonic clock.
 */
export function eventSinks(
  log: Log,
  audit: Pick<Audit, "request" | "turnedAway">,
  now: () => number = monotonicMs,
) {
  const limitedLog = new RateLimitedLog({ intervalMs: EVENT_INTERVAL_MS, now });
  let metrics: Metrics | null = null;
  return {
    attach(to: Metrics): void {
      metrics = to;
    },
    request(event: RequestEvent): void {
      metrics?.request(event);
      audit.request(event);
      const { subject, method, route, status, why, refusal } = event;
      log.debug("request", { subject, method, route, status, why, refusal });
    },
    turnedAway(event: TurnedAway): void {
      metrics?.turnedAway(event);
      audit.turnedAway(event);
    },
    upstream(status: number | null, tookMs: number): void {
      metrics?.upstream(status, tookMs);
    },
    lookedUp(result: "owner" | "refused", tookMs: number): void {
      metrics?.lookedUp(result, tookMs);
    },
    acceptFailure(code: string): void {
      metrics?.acceptFailure();
      limitedLog.write(`accept ${code}`, (count) =>
        log.error("connections cannot be accepted for now", {
          why: code,
          count,
          remedy: code === "EMFILE" ? "raise LimitNOFILE= of the service" : undefined,
        }),
      );
    },
    unidentified(why: string): void {
      metrics?.unidentified();
      limitedLog.write(`unidentified ${why}`, (count) =>
        log.warn("a caller could not be identified", { why, count }),
      );
    },
    /** A service of NSS did not answer: the name that it gave before is kept, or the user is unknown for now. */
    names(event: UnavailableEvent): void {
      metrics?.unavailable(event);
      limitedLog.write(`names ${event.outcome} ${event.why}`, (count) =>
        log.warn(
          event.outcome === "kept"
            ? "NSS does not answer: its earlier answer is used"
            : "NSS does not answer who a user is: they are refused where a rule or a session name needs it",
          { uid: event.uid, why: event.why, count },
        ),
      );
    },
    session(event: SessionEvent): void {
      metrics?.session(event);
      const { roleArn: role, sessionName } = event.request;
      if (event.type === "obtained") {
        const { reason, accessKeyId } = event;
        log.info("session", {
          role,
          sessionName,
          reason,
          accessKeyId,
          expires: new Date(event.expiresAtMs).toISOString(),
        });
      } else if (event.type === "postponed") {
        limitedLog.write(`postponed ${event.owner}`, (count) =>
          log.warn("too many new sessions: a call of STS has to wait", {
            owner: event.owner,
            role,
            sessionName,
            retryInMs: Math.ceil(event.againInMs),
            count,
          }),
        );
      } else if (event.type === "dropped") {
        const { reason, accessKeyId } = event;
        if (accessKeyId !== null && (reason === "job-ended" || reason === "withdrawn"))
          log.info("session forgotten", { role, sessionName, reason, accessKeyId });
        else log.debug("session dropped", { role, sessionName, reason });
      } else {
        limitedLog.write(`${event.type} ${role} ${event.code}`, (count) =>
          log.warn(event.type === "denied" ? "AssumeRole was denied" : "AssumeRole failed for now", {
            role,
            sessionName,
            code: event.code,
            detail: event.detail,
            retryInMs: Math.round(event.againInMs),
            count,
          }),
        );
      }
    },
  };
}
