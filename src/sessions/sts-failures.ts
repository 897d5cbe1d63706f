import { denialCause } from "./denial.ts";
import { StsFailure } from "./failure.ts";
import type { SessionRequest } from "./types.ts";

/** The fields of the SDK's errors. Any of them may be missing. */
interface SdkError {
  /** AWS's code where there is one, else the error's name. */
  readonly name: string;
  /** Node's error code: ECONNREFUSED, ENOTFOUND, … */
  readonly code: string | null;
  readonly message: string;
  readonly status: number | null;
  readonly requestId: string | null;
  readonly retryAfter: string | null;
  /** STS answered with an error in AWS's form. */
  readonly fromSts: boolean;
}

/**
 * The codes with which STS rejects the node's own credentials or clock. No caller's role is the cause, and the request may
 * succeed with newer credentials or a corrected clock. (STS, "Common errors"; SDK, CLOCK_SKEW_ERROR_CODES.)
 */
const OWN_CREDENTIALS = new Set([
  "AuthFailure",
  "ExpiredToken",
  "ExpiredTokenException",
  "IncompleteSignature",
  "InvalidClientTokenId",
  "InvalidSignatureException",
  "MissingAuthenticationToken",
  "RequestExpired",
  "RequestInTheFuture",
  "RequestTimeTooSkewed",
  "SignatureDoesNotMatch",
  "TokenRefreshRequired",
  "UnrecognizedClientException",
]);

/** The codes of throttling, as the SDK lists them (@smithy/core, service-error-classification/constants.js: THROTTLING_ERROR_CODES). */
const THROTTLING = new Set([
  "BandwidthLimitExceeded",
  "EC2ThrottledException",
  "LimitExceededException",
  "PriorRequestNotComplete",
  "RequestLimitExceeded",
  "RequestThrottled",
  "RequestThrottledException",
  "SlowDown",
  "ThrottledException",
  "Throttling",
  "ThrottlingException",
  "TooManyRequestsException",
]);

/** Client errors (4xx) that are transient all the same. */
const PASSING = new Set(["RequestTimeout", "RequestTimeoutException", "RequestCanceled"]);

/**
 * Refusals whose text is known to describe policies and parameters only, so that it may be logged. The text of others is not:
 * SignatureDoesNotMatch quotes the canonical request, and with it the node's session token.
 */
const TELLING = new Set([
  "AccessDenied",
  "AccessDeniedException",
  "MalformedPolicyDocument",
  "MalformedPolicyDocumentException",
  "PackedPolicyTooLarge",
  "PackedPolicyTooLargeException",
  "RegionDisabledException",
  "ValidationError",
  "ValidationException",
]);

const THROTTLED_MS = 5_000;

/** Whether STS rejects the node's own credentials or clock with this code. */
export const isOwnCredentialsCode = (code: string): boolean => OWN_CREDENTIALS.has(code);
/** Whether STS throttles with this code. */
export const isThrottlingCode = (code: string): boolean => THROTTLING.has(code);

/** Whether the same request may succeed with newly fetched credentials and a corrected date. */
export function isOwnCredentials(error: unknown): boolean {
  const found = read(error);
  return found.fromSts && OWN_CREDENTIALS.has(found.name);
}

/**
 * Converts what the SDK threw to an StsFailure.
 *
 * @param secrets texts to remove from the failure's detail: the node's own credentials, which any answer may quote.
 */
export function classify(
  error: unknown,
  request: SessionRequest,
  secrets: readonly string[] = [],
): StsFailure {
  if (error instanceof StsFailure) return error;
  const found = read(error);
  const where = found.status === null ? "" : ` (status ${found.status}${id(found)})`;
  if (!found.fromSts) return notFromSts(found, where);
  const code = word(found.name);
  if (OWN_CREDENTIALS.has(found.name)) {
    return passing(
      code,
      "STS does not accept the node's own credentials for now; try again shortly",
      `STS refused the node's own credentials: ${code}${where}`,
    );
  }
  if (THROTTLING.has(found.name) || found.status === 429) {
    return new StsFailure({
      kind: "transient",
      code,
      message: "STS is asked too often; try again shortly",
      detail: `STS throttles: ${code}${where}`,
      retryAfterMs: retryAfterMs(found.retryAfter) ?? THROTTLED_MS,
    });
  }
  if (found.status === null || found.status >= 500 || PASSING.has(found.name)) {
    return passing(code, "STS has a fault of its own; try again shortly", `STS failed: ${code}${where}`);
  }
  const said = TELLING.has(found.name) ? `: ${printable(found.message, request, secrets)}` : "";
  const cause = denialCause(found.message);
  return new StsFailure({
    kind: "denied",
    code,
    message: `STS refuses to assume ${request.roleArn} (${code}); ask the administrator of this node`,
    detail: `STS refused to assume ${request.roleArn}: ${code}${where}${said}${cause === "unknown" ? "" : ` [${cause}]`}`,
  });
}

/** No answer, or one that is not AWS's: a proxy's page, a redirect, something else on that port. */
function notFromSts(found: SdkError, where: string): StsFailure {
  // The SDK calls a reset connection a TimeoutError too. Only the system's error code distinguishes the two.
  const late = found.name === "TimeoutError" || found.name === "AbortError";
  if (found.code === "ETIMEDOUT" || (late && found.code === null)) {
    return passing("timeout", "STS did not answer in time; try again shortly", "STS did not answer in time");
  }
  if (found.status !== null) {
    const retryMs = retryAfterMs(found.retryAfter);
    return new StsFailure({
      kind: "transient",
      code: "answer",
      message: "what answered at the STS endpoint is not STS; try again shortly",
      detail: `the answer to AssumeRole is not one of STS's${where}: is there a proxy in between, or is sts.endpoint wrong?`,
      retryAfterMs: retryMs,
    });
  }
  const why = found.code === null ? word(found.name) : word(found.code);
  return passing("connection", "STS cannot be reached; try again shortly", `STS cannot be reached: ${why}`);
}

function passing(code: string, message: string, detail: string): StsFailure {
  return new StsFailure({ kind: "transient", code, message, detail });
}

function read(error: unknown): SdkError {
  const top = record(error);
  const metadata = record(top["$metadata"]);
  const response = record(top["$response"]);
  const headers = record(response["headers"]);
  const status = number(metadata["httpStatusCode"]) ?? number(response["statusCode"]);
  // AWS's code as STS sent it: the SDK's name for the same differs ("MalformedPolicyDocumentException").
  const awsCode = top["$fault"] === undefined ? null : text(top["Code"]);
  return {
    name: awsCode ?? text(top["name"]) ?? "Unknown",
    code: text(top["code"]),
    message: text(top["message"]) ?? "",
    status,
    requestId: text(metadata["requestId"]),
    retryAfter: text(headers["retry-after"]) ?? text(headers["Retry-After"]),
    // For an answer without AWS's XML the SDK throws a service exception too, but without a Code.
    fromSts: awsCode !== null,
  };
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

function text(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function number(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}

function id(found: SdkError): string {
  return found.requestId === null ? "" : `, request ${word(found.requestId)}`;
}

/** A Retry-After in seconds as milliseconds; null for a date (RFC 9110, 10.2.3), which leaves the wait to the broker's backoff. */
function retryAfterMs(header: string | null): number | null {
  return header !== null && /^\d{1,6}$/.test(header.trim()) ? Number(header) * 1000 : null;
}

/** Removes from a code, which came over the network, what does not belong in a log line or a metric's label. */
function word(value: string): string {
  return value.replaceAll(/[^\w.-]/g, "").slice(0, 64) || "unknown";
}

/** STS's text as one log line, without secrets. Some use the external id as a shared secret, and ValidationError quotes it. */
function printable(message: string, request: SessionRequest, secrets: readonly string[]): string {
  let hidden = request.externalId ? message.replaceAll(request.externalId, "(external id)") : message;
  for (const secret of secrets) hidden = hidden.replaceAll(secret, "(secret)");
  return hidden.replaceAll(/[^\x20-\x7e]+/g, " ").slice(0, 600);
}
