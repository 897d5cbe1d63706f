import { denialCause } from "./denial.ts";
import { StsFailure } from "./failure.ts";
import type { SessionRequest } from "./types.ts";

/** What the SDK hangs on the errors that it throws; every field may be missing. */
interface SdkError {
  /** AWS's code where there is one, else the error's name. */
  readonly name: string;
  /** Of Node: ECONNREFUSED, ENOTFOUND, … */
  readonly code: string | null;
  readonly message: string;
  readonly status: number | null;
  readonly requestId: string | null;
  readonly retryAfter: string | null;
  /** STS answered with an error in AWS's form. */
  readonly fromSts: boolean;
}

/**
 * STS found fault with the node's own credentials or clock: no caller's role is at fault, and newer credentials or a
 * corrected clock may pass. (STS, "Common errors"; SDK, CLOCK_SKEW_ERROR_CODES.)
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

/** As the SDK has them (@smithy/core, service-error-classification/constants.js: THROTTLING_ERROR_CODES). */
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

/** Client errors that pass by themselves. */
const PASSING = new Set(["RequestTimeout", "RequestTimeoutException", "RequestCanceled"]);

/**
 * Refusals whose text is known to describe policies and parameters only. The text of others stays unread:
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

/** Whether a code of STS's finds fault with the node's own credentials or clock. */
export const isOwnCredentialsCode = (code: string): boolean => OWN_CREDENTIALS.has(code);
/** Whether a code of STS's says that it is asked too often. */
export const isThrottlingCode = (code: string): boolean => THROTTLING.has(code);

/** True where the same request, with credentials fetched anew and a corrected date, may pass. */
export function isOwnCredentials(error: unknown): boolean {
  const found = read(error);
  return found.fromSts && OWN_CREDENTIALS.has(found.name);
}

/**
 * Puts what the SDK threw into our terms.
 *
 * @param secrets what must not be in the failure's detail, whoever put it into the answer: the node's own credentials.
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
  // The SDK calls a reset connection a TimeoutError too; the code of the system tells them apart.
  const late = found.name === "TimeoutError" || found.name === "AbortError";
  if (found.code === "ETIMEDOUT" || (late && found.code === null)) {
    return passing("timeout", "STS did not answer in time; try again shortly", "STS did not answer in time");
  }
  if (found.status !== null) {
    const retryMs = retryAfterMs(found.retryAfter);
    return new StsFailure({
      kind: "transient",
      code: "answer",
      message: "what answers for STS is not STS; try again shortly",
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
    // What the SDK makes of an answer without AWS's XML is a service exception too, but has no Code.
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

/** Seconds or a date (RFC 9110, 10.2.3); dates are left to the broker's own backoff. */
function retryAfterMs(header: string | null): number | null {
  return header !== null && /^\d{1,6}$/.test(header.trim()) ? Number(header) * 1000 : null;
}

/** A code from the network, made fit for a log line and a metric's label. */
function word(value: string): string {
  return value.replaceAll(/[^\w.-]/g, "").slice(0, 64) || "unknown";
}

/** STS's text, made fit for one log line. An external id is a shared secret for some, and ValidationError quotes it. */
function printable(message: string, request: SessionRequest, secrets: readonly string[]): string {
  let hidden = request.externalId ? message.replaceAll(request.externalId, "(external id)") : message;
  for (const secret of secrets) hidden = hidden.replaceAll(secret, "(secret)");
  return hidden.replaceAll(/[^\x20-\x7e]+/g, " ").slice(0, 600);
}
