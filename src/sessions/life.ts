/** When a session is served, refreshed and given up. Pure; all times are milliseconds. */

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
 * How long a denial is remembered that came before anybody asked. It covers the request for credentials that follows one for a
 * token; a later one asks STS anew, because the policy may have been corrected.
 */
export const EARLY_DENIAL_MS = 5_000;

const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = MINUTE_MS;
/** The longest Retry-After that is followed, so that a wrong one does not stop the service. */
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
 * A session never lasts longer than was asked for, whatever the wall clock makes of STS's date: on a node whose
 * clock is a day late, `expiresAtMs - nowMs` alone would say 25 hours.
 *
 * The floor of a short session is two fifths of its life: 20 minutes of a 15-minute session can never be left,
 * and each answer would wait for one more AssumeRole.
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
 * A session that seems to have more life than it was born with is `low`: the clock went back, and the end that
 * clients would be told lies after the real one. A minute of that is what PUBLISH_EARLY_MS covers.
 */
export function standing(life: Life, nowMs: number): "fresh" | "low" | "ended" {
  const leftMs = life.publishedExpiryMs - nowMs;
  if (leftMs <= 0) return "ended";
  if (leftMs < life.floorMs || leftMs > life.publishedLifeMs + PUBLISH_EARLY_MS) return "low";
  return "fresh";
}

/** The end to tell a client at `nowMs`: never further away than it was when the session was obtained. */
export function expiryToPublish(life: Life, nowMs: number): number {
  return Math.min(life.publishedExpiryMs, nowMs + life.publishedLifeMs);
}

/**
 * From obtaining to the refresh in the background: 80 to 100 % of half the life. Only ever early, so that the refresh comes before the
 * floor.
 *
 * Sessions that are obtained together (a cluster boots, a job starts, STS is back, the rules give another role) would be refreshed
 * together for half a day with no more than that: the jitter of each round is small against the round. So the first refresh of a session
 * that was not itself refreshed in time comes at 25 to 100 %: spread over nearly a whole round, once, which costs no call later
 * (docs/scale.md).
 *
 * @param random in [0, 1).
 * @param inTime whether the session was obtained by a refresh that came in time.
 */
export function refreshDelayMs(life: Life, random: number, inTime: boolean): number {
  return life.halfLifeMs * (1 - (inTime ? 0.2 : 0.75) * random);
}

/**
 * From the nth passing failure in a row to the next attempt: 1, 2, 4 … 60 s, of which half is random
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
