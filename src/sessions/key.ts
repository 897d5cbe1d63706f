import type { SessionRequest } from "./types.ts";

/** By UTF-16 code units, so that the order depends on no locale. */
function byCodeUnits(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/**
 * The name under which a request's session is kept. Two requests have the same key exactly when AWS would give
 * the same session for both: every field counts, and the order of tags, transitive keys and policy ARNs does not.
 *
 * It is JSON of an array, because joined strings collide (`a|b` + `c` and `a` + `b|c`). A cache keyed by the
 * ARN alone gave callers another's session name and external id (lyft/metadataproxy).
 */
export function sessionKey(request: SessionRequest): string {
  const known = keys.get(request);
  if (known !== undefined) return known;
  const key = makeKey(request);
  keys.set(request, key);
  return key;
}

/** Caches keys by request object: a decision returns the same object while it stands, and no request is ever modified. */
const keys = new WeakMap<SessionRequest, string>();

function makeKey(request: SessionRequest): string {
  // Naming every field here makes the compiler object when SessionRequest gains one that the key lacks.
  const { roleArn, sessionName, durationSeconds, sourceIdentity, policy, externalId, ...sets } = request;
  const { tags, transitiveTagKeys, policyArns, ...rest } = sets;
  rest satisfies Record<string, never>;
  return JSON.stringify([
    roleArn,
    sessionName,
    durationSeconds,
    sourceIdentity,
    tags.toSorted(([a, x], [b, y]) => byCodeUnits(a, b) || byCodeUnits(x, y)),
    [...new Set(transitiveTagKeys)].sort(byCodeUnits),
    [...new Set(policyArns)].sort(byCodeUnits),
    policy,
    externalId,
  ]);
}
