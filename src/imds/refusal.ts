import { NamesUnavailable } from "../identity/accounts.ts";
import { AmbiguousIdentity } from "../identity/resolver.ts";

/**
 * Kinds of refusals.
 * - `rule`: the rules give this caller no role. `role`: the caller asked for a role that is not theirs.
 * - `identity`: nobody can say who asks. `request`: the target, Host or another header is not one that is taken.
 * - `token`: a token is missing, wrong or expired. `unavailable`: something that is needed cannot be had for now.
 */
export type RefusalKind = "rule" | "role" | "identity" | "request" | "token" | "unavailable";

/** Thrown where a request is refused: the status of the answer, and for the log why. */
export class Refusal {
  readonly status: number;
  readonly kind: RefusalKind;
  readonly why: string;
  constructor(status: number, kind: RefusalKind, why: string) {
    this.status = status;
    this.kind = kind;
    this.why = why;
  }
}

/** The refusal that an expected error means for the caller; null for an unexpected error. */
export function refusalOf(error: unknown): Refusal | null {
  if (error instanceof Refusal) return error;
  if (error instanceof AmbiguousIdentity) return new Refusal(403, "identity", error.message);
  if (error instanceof NamesUnavailable) return new Refusal(503, "unavailable", error.message);
  return null;
}
