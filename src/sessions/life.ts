/** Decides when a session is served, refreshed and dropped. Pure; all times are milliseconds. */

const MINUTE_MS = 60_000;

/** The published expiry is this much before the real one, so that no client uses a session in its last moment. */
export const PUBLISH_EARLY_MS = MINUTE_MS;

/**
 * The least life with which a session is served while STS answers. s3fs-fuse asks again at every S3 request
 * under 20 minutes, botocore under 15 (docs: "the metadata service as its clients see it").
 */
export const SERVE_FLOOR_MS = 20 * MINUTE_MS;

/** How long a denial is remembered. */
export const DENIAL_MS = MINUTE_MS;

/**
 * How long a denial of an early start is remembered. It covers the request for credentials that follows a request for a token.
 * A later request asks STS again, because the policy may have been corrected.
 */
export const EARLY_DENIAL_MS = 5_000;

const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = MINUTE_MS;
/** The longest Retry-After that is obeyed, so that a wrong one does not stop the service. */
const LONGEST_RETRY_AFTER_MS = 5 * MINUTE_MS;

/** A session's life, fixed at the moment when it was obtained. */
export interface Life {
  /** The end that clients are given. */
  readonly publishedExpiryMs: number;
  /** From the moment of obtaining to the published end. */
  readonly publishedLifeMs: number;
  /** Served without waiting while at least this much is left. */
  readonly floorMs: number;
  /** From the moment of obtaining to the latest moment for the refresh: half of its life. */
  readonly halfLifeMs: number;
}

/**
 * The life of a session obtained at `nowMs`, or null where none of it is left.
 *
 * It is never longer than the duration that was asked for. STS's date alone is not enough where the wall clock is
 * wrong: on a node whose clock is a day slow, `expiresAtMs - nowMs` would be 25 hours.
 *
 * A short session has a lower floor: two fifths of its life. A 15-minute session never has 20 minutes left, so by the
 * usual floor it would always be `low`, and each answer would wait for another AssumeRole.
 */
export function lifeOf(expiresAtMs: number, durationSeconds: number, nowMs: number): Life | null {
  const publishedExpiryMs = Math.min(expiresAtMs, nowMs + durationSeconds * 1000) - PUBLISH_EARLY_MS;
  const publishedLifeMs = publishedExpiryMs - nowMs;
  if (!(publishedLifeMs > 0)) return null;
  return {
    publishedExpiryMs,
    publishedLifeMs,
    floorMs: Math.min(SERVE_FLOOR_MS, publishedLifeMs * 0.4),
    halfLifeMs: (publishedLifeMs + PUBLISH_EARLY_MS) / 2,
  };
}

/**
 * How a session with this life stands at `nowMs`.
 * - `ended`: never served.
 * - `low`: served when STS gives no better one.
 * - `fresh`: served at once.
 *
 * A session with more life left than it had when it was obtained is `low` too: the clock was set back, so the expiry that
 * clients would be given is later than the real one. PUBLISH_EARLY_MS makes up for one minute of that, so one minute is allowed.
 */
export function standing(life: Life, nowMs: number): "fresh" | "low" | "ended" {
  const leftMs = life.publishedExpiryMs - nowMs;
  if (leftMs <= 0) return "ended";
  if (leftMs < life.floorMs || leftMs > life.publishedLifeMs + PUBLISH_EARLY_MS) return "low";
  return "fresh";
}

/** The expiry to publish at `nowMs`: never further away than it was when the session was obtained. */
export function expiryToPublish(life: Life, nowMs: number): number {
  return Math.min(life.publishedExpiryMs, nowMs + life.publishedLifeMs);
}

/**
 * Milliseconds from obtaining a session to its refresh in the background: 80 to 100 % of half its life. The jitter only makes the
 * refresh earlier, so that it comes before the floor.
 *
 * This jitter alone is too small for sessions that are obtained together (a cluster boots, a job starts, STS is back, the rules give
 * another role): it is a small part of each round, and they would be refreshed together for half a day. So the first refresh of a
 * session that did not come from a refresh in time comes at 25 to 100 %. That spreads such sessions over most of a round, once, and
 * costs no further call later (docs/scale.md).
 *
 * @param random in [0, 1).
 * @param inTime whether the session was obtained by a refresh that came in time.
 */
export function refreshDelayMs(life: Life, random: number, inTime: boolean): number {
  return life.halfLifeMs * (1 - (inTime ? 0.2 : 0.75) * random);
}

/**
 * Milliseconds from the nth transient failure in a row to the next attempt: 1, 2, 4 … 60 s, of which half is random
 * ("equal jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/); not before
 * `retryAfterMs` plus as much jitter, where STS named one.
 *
 * @param failures 1 for the first.
 * @param random in [0, 1).
 */
export function retryDelayMs(failures: number, retryAfterMs: number | null, random: number): number {
  const stepMs = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(failures - 1, 16));
  const ownMs = (stepMs / 2) * (1 + random);
  if (retryAfterMs === null || !(retryAfterMs > 0)) return ownMs;
  return Math.max(ownMs, Math.min(retryAfterMs, LONGEST_RETRY_AFTER_MS) + (stepMs / 2) * random);
}
