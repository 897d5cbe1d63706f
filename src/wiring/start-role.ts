import { UNKNOWN_IDENTITY } from "../identity/types.ts";
import type { Policy } from "../imds/decisions.ts";
import type { Clock } from "../platform/clock.ts";
import type { Sts } from "../sessions/calls.ts";
import { explainDenial } from "../sessions/denial.ts";
import { StsFailure } from "../sessions/failure.ts";
import { sessionKey } from "../sessions/key.ts";
import { retryDelayMs } from "../sessions/life.ts";
import type { SessionRequest } from "../sessions/types.ts";
import type { Health } from "../telemetry/health.ts";
import type { Log } from "../telemetry/log.ts";
import type { MetadataCache } from "../upstream/cache.ts";

/** Milliseconds until the next attempt after a denial. What passes is tried again as for any session, see `retryDelayMs`. */
const AGAIN_MS = 60_000;
const TRY_MS = 15_000;

/**
 * Assumes the default role once at the start, so that a missing trust policy is in the log before a user meets it. After a
 * failure it tries again until it succeeds, and logs that once.
 *
 * @returns a function that stops it.
 */
export function watchStartRole(options: {
  policy: () => Pick<Policy, "rules">;
  sts: Sts;
  metadata: Pick<MetadataCache, "read">;
  /** See HandlerOptions.region. Default: nobody tells it. */
  region?: () => Promise<string | null>;
  health: Pick<Health, "session" | "forget">;
  /** The URL of STS, for the administrator who has to make it reachable. */
  endpoint: () => Promise<string>;
  clock: Clock;
  log: Pick<Log, "info" | "warn">;
  /** A number in [0, 1), for the jitter. */
  random: () => number;
}): () => void {
  const { clock, log, health } = options;
  let cancel = () => {};
  let stopped = false;
  let complaint: string | null = null;
  let failures = 0;
  /** The request of the last attempt, where it failed. */
  let failed: SessionRequest | null = null;

  const tryOnce = async (): Promise<void> => {
    const found = await options.metadata.read("latest", "meta-data/instance-id", -1);
    const instanceId = found.kind === "found" ? found.body.trim() : null;
    // An identity without uid and account matches no rule, so that the default role remains.
    const nobody = { ...UNKNOWN_IDENTITY, user: "imdsproxy-check", cgroup: "/" };
    const { rules } = options.policy();
    let region: string | null = null;
    if (rules.needs.region && options.region !== undefined) {
      try {
        region = await options.region();
      } catch {
        // The upstream does not answer, so that STS could not be asked either.
        if (!stopped)
          cancel = clock.schedule(retryDelayMs(++failures, null, options.random()), () => void tryOnce());
        return;
      }
    }
    const decision = rules.decide(nobody, instanceId, region);
    if (stopped) return;
    const request = decision.kind === "role" && decision.rule === null ? decision.request : null;
    // The request is another one where the configuration was changed, or where the node's instance id, which the session's name
    // may have in it, could not be read before. Nobody asks for the earlier session again, so its failure would stay.
    if (failed !== null && (request === null || sessionKey(failed) !== sessionKey(request))) {
      health.forget(failed);
      failed = null;
    }
    if (request === null) return;
    const startedMs = clock.now();
    const outcome = () => ({ request, reason: "asked", tookMs: clock.now() - startedMs }) as const;
    try {
      const { accessKeyId, expiresAtMs } = await options.sts.assumeRole(request, AbortSignal.timeout(TRY_MS));
      health.session({ type: "obtained", ...outcome(), accessKeyId, expiresAtMs });
      log.info(
        complaint === null ? "the default role can be assumed" : "the default role can be assumed now",
        {
          role: request.roleArn,
        },
      );
      complaint = null;
      failures = 0;
      failed = null;
    } catch (error) {
      if (stopped) return;
      const failure = error instanceof StsFailure ? error : null;
      const againInMs =
        failure?.kind === "denied"
          ? AGAIN_MS
          : retryDelayMs(++failures, failure?.retryAfterMs ?? null, options.random());
      failed = request;
      const code = failure?.code ?? "unknown";
      health.session({
        type: failure?.kind === "denied" ? "denied" : "failed",
        ...outcome(),
        code,
        message: failure?.message ?? "STS could not be asked",
        detail: failure?.detail ?? "STS could not be asked",
        againInMs,
        servingUntilMs: null,
      });
      if (complaint !== code) {
        complaint = code;
        const denied = failure?.kind === "denied";
        const endpoint = denied ? undefined : await options.endpoint().catch(() => undefined);
        log.warn(
          denied ? "the default role cannot be assumed" : "the default role could not be tried for now",
          {
            role: request.roleArn,
            code,
            detail: failure?.detail,
            endpoint,
            remedy:
              denied && failure !== null ? explainDenial(request, null, failure.detail).text : undefined,
          },
        );
      }
      cancel = clock.schedule(againInMs, () => void tryOnce());
    }
  };
  void tryOnce();
  return () => {
    stopped = true;
    cancel();
  };
}
