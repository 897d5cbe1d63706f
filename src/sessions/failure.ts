/**
 * Whether asking again soon can help.
 * - `denied`: STS understood the request and refused it; only an administrator can change that.
 * - `transient`: STS could not be reached, was overloaded, or rejected the node's own credentials.
 */
export type StsFailureKind = "denied" | "transient";

/** Everything that is known of a failed AssumeRole. No field may hold a secret. */
export interface StsFailureInit {
  readonly kind: StsFailureKind;
  /**
   * AWS's error code ("AccessDenied"), else a code of imdsproxy ("timeout", "aborted", "connection", "answer", "clock",
   * "credentials", "region", "unknown"). There are few enough of them for a metric's label.
   */
  readonly code: string;
  /** The message for the caller, which names only the role that was asked for. */
  readonly message: string;
  /** For the log and the administrator: may hold ARNs and policy statements. Default: the message. */
  readonly detail?: string;
  /** Milliseconds after which STS allows a retry (Retry-After). Default null: the broker's backoff decides. */
  readonly retryAfterMs?: number | null;
}

/** The error of an `Sts` that gives no session. */
export class StsFailure extends Error {
  override readonly name = "StsFailure";
  readonly kind: StsFailureKind;
  readonly code: string;
  readonly detail: string;
  readonly retryAfterMs: number | null;

  // No `cause`: an SDK's error carries the request, hence the node's session token, into whatever prints it.
  constructor(init: StsFailureInit) {
    super(init.message);
    this.kind = init.kind;
    this.code = init.code;
    this.detail = init.detail ?? init.message;
    this.retryAfterMs = init.retryAfterMs ?? null;
  }
}

/** A failure of any error. Of an unknown one only the class is told, because its text may hold anything. */
export function failureOf(error: unknown): StsFailure {
  if (error instanceof StsFailure) return error;
  const name = error instanceof Error ? error.constructor.name : typeof error;
  return new StsFailure({
    kind: "transient",
    code: "unknown",
    message: "STS could not be asked; try again shortly",
    detail: `asking STS failed in an unforeseen way (${name})`,
  });
}
