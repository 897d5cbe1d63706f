/**
 * A strict parser of the head of an HTTP/1.x request (RFC 9112). It is our own for two reasons: the routes need the target as
 * it was sent, and no request is passed on. A request that is not plainly well-formed is refused and its connection closed,
 * so that no second parser can understand it in another way.
 */

/** Longest head that is read, in bytes. SDKs send under 1 KiB; a token is 56 bytes. */
export const MAX_HEAD_BYTES = 8192;
/** Longest body that is discarded. No route takes a body; SDKs send none, or an empty one with PUT. */
export const MAX_BODY_BYTES = 65_536;

const MAX_HEADERS = 64;

/** A request whose head is well-formed. */
export interface Request {
  readonly method: string;
  /** The target as it was sent: origin form, absolute form, or any other text without blanks. */
  readonly target: string;
  /** Header names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  /** Whether the connection may be used again after the answer. */
  readonly keepAlive: boolean;
  /** Bytes of body that follow the head and are discarded. */
  readonly bodyLength: number;
  /** Whether {@link EMPTY_CHUNKS} must follow the head. The connection is closed after the answer. */
  readonly emptyChunks: boolean;
}

/**
 * The only chunked body that is accepted: an empty one. s3fs-fuse 1.91 sends it with the PUT of a token, and the metadata
 * service answers 200 with `Connection: close` (s3fs-fuse, pull request 1766).
 */
export const EMPTY_CHUNKS = "0\r\n\r\n";

/** The status of a refused request, after which the connection is closed. */
export interface BadRequest {
  readonly status: 400 | 413 | 417;
  readonly why: string;
}

const bad = (why: string, status: BadRequest["status"] = 400): BadRequest => ({ status, why });

/** Headers that must not be repeated, because two readers could take different ones of them. */
const SINGLE = new Set([
  "host",
  "content-length",
  "transfer-encoding",
  "expect",
  "x-forwarded-for",
  "x-aws-ec2-metadata-token",
  "x-aws-ec2-metadata-token-ttl-seconds",
]);

const REQUEST_LINE = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([^\x00-\x20\x7f]+) HTTP\/1\.([01])$/;
/** Blanks around a value are not matched here: a pattern that does needs time by the square of their number. */
const HEADER_LINE = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00-\x08\x0a-\x1f\x7f]*)$/;

/** A value without the optional white space around it, which is blanks and tabs alone (RFC 9110, section 5.6.3). */
function trimmed(value: string): string {
  let start = 0;
  let end = value.length;
  while (start < end && isBlank(value.charCodeAt(start))) start++;
  while (end > start && isBlank(value.charCodeAt(end - 1))) end--;
  return value.slice(start, end);
}

const isBlank = (code: number): boolean => code === 0x20 || code === 0x09;

/**
 * Parses a head.
 *
 * @param head everything before the empty line, decoded as Latin-1, without the closing CRLF CRLF.
 */
export function parseRequest(head: string): Request | BadRequest {
  const lines = head.split("\r\n");
  if (lines.length > MAX_HEADERS + 1) return bad("too many header lines");
  const first = REQUEST_LINE.exec(lines[0] ?? "");
  if (first === null) return bad("the request line is not that of HTTP/1.0 or HTTP/1.1");
  const [, method = "", target = "", minor] = first;
  const headers = new Map<string, string>();
  for (let i = 1; i < lines.length; i++) {
    const parts = HEADER_LINE.exec(lines[i] ?? "");
    if (parts === null) return bad("a header line is malformed");
    const name = (parts[1] ?? "").toLowerCase();
    const value = trimmed(parts[2] ?? "");
    const earlier = headers.get(name);
    if (earlier !== undefined && SINGLE.has(name)) return bad(`the header ${name} is repeated`);
    headers.set(name, earlier === undefined ? value : `${earlier}, ${value}`);
  }
  if (minor === "1" && !headers.has("host")) return bad("an HTTP/1.1 request needs a Host");
  if (headers.has("expect")) return bad("expectations are not met", 417);
  const transferEncoding = headers.get("transfer-encoding");
  if (transferEncoding !== undefined) {
    // Request smuggling needs two lengths of one body (RFC 9112, section 6.3), and HTTP/1.0 has no chunks.
    if (method !== "PUT" || minor !== "1" || transferEncoding !== "chunked" || headers.has("content-length"))
      return bad("a body in chunks is not taken");
    return { method, target, headers, keepAlive: false, bodyLength: 0, emptyChunks: true };
  }
  const contentLength = headers.get("content-length") ?? "0";
  if (!/^\d{1,15}$/.test(contentLength)) return bad("Content-Length is not a number");
  const bodyLength = Number(contentLength);
  if (bodyLength > MAX_BODY_BYTES) return bad("the body is too long", 413);
  const connection = (headers.get("connection") ?? "").toLowerCase();
  const keepAlive = minor === "1" ? !/\bclose\b/.test(connection) : /\bkeep-alive\b/.test(connection);
  return { method, target, headers, keepAlive, bodyLength, emptyChunks: false };
}

/** Tells the two outcomes of {@link parseRequest} apart. */
export const isBad = (parsed: Request | BadRequest): parsed is BadRequest => "status" in parsed;
