import { createHash, createHmac, timingSafeEqual } from "node:crypto";

/**
 * Signature Version 4 as a service checks it, written from its description
 * (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html) and not with the SDK's
 * signer: an error that both have in common would go unnoticed.
 */

/** A request as it came, header names in lower case. */
export interface SignedRequest {
  readonly method: string;
  /** The request target, as sent. */
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

/** What the Authorization header claims. */
export interface Claim {
  readonly accessKeyId: string;
  /** YYYYMMDD */
  readonly date: string;
  readonly region: string;
  readonly service: string;
  readonly signedHeaders: readonly string[];
  readonly signature: string;
}

const AUTHORIZATION =
  /^AWS4-HMAC-SHA256 +Credential=([^/,\s]+)\/(\d{8})\/([^/,\s]+)\/([^/,\s]+)\/aws4_request, *SignedHeaders=([a-z0-9;-]+), *Signature=([0-9a-f]{64})$/;

/** Reads an Authorization header, or null where it is none of this kind. */
export function parseAuthorization(header: string | undefined): Claim | null {
  const found = AUTHORIZATION.exec(header ?? "");
  if (found === null) return null;
  const [, accessKeyId = "", date = "", region = "", service = "", signed = "", signature = ""] = found;
  return { accessKeyId, date, region, service, signedHeaders: signed.split(";"), signature };
}

/** The moment of an X-Amz-Date header (YYYYMMDDTHHMMSSZ) in milliseconds since the epoch, or null. */
export function parseAmzDate(header: string | undefined): number | null {
  const found = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(header ?? "");
  if (found === null) return null;
  const [, year, month, day, hour, minute, second] = found;
  const ms = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(ms) ? null : ms;
}

/** True where the claim's signature is the one that this secret gives for this request. */
export function isSignedWith(secretAccessKey: string, claim: Claim, request: SignedRequest): boolean {
  const toSign = [
    "AWS4-HMAC-SHA256",
    request.headers["x-amz-date"] ?? "",
    `${claim.date}/${claim.region}/${claim.service}/aws4_request`,
    sha256(canonicalRequest(claim, request)),
  ].join("\n");
  let key: Uint8Array = Buffer.from(`AWS4${secretAccessKey}`);
  for (const part of [claim.date, claim.region, claim.service, "aws4_request"]) key = hmac(key, part);
  return timingSafeEqual(hmac(key, toSign), Buffer.from(claim.signature, "hex"));
}

/** Paths and queries of STS need no more than this: its requests are `POST /` with everything in the body. */
function canonicalRequest(claim: Claim, request: SignedRequest): string {
  const [path = "/", query = ""] = request.target.split("?");
  const headers = claim.signedHeaders.map(
    (name) => `${name}:${(request.headers[name] ?? "").trim().replaceAll(/ +/g, " ")}\n`,
  );
  return [
    request.method,
    path,
    query.split("&").sort().join("&"),
    headers.join(""),
    claim.signedHeaders.join(";"),
    sha256(request.body),
  ].join("\n");
}

function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

function hmac(key: Uint8Array, data: string): Buffer {
  return createHmac("sha256", key).update(data).digest();
}
