/**
 * HTTP/1.1 as the stand-in reads and writes it. Pure. A parser of its own because the tests must see a request's
 * target byte for byte, and Bun.serve shows a normalised one.
 */
import { STATUS_CODES } from "node:http";

/** One request, as it was sent; text is Latin-1, a character for a byte. */
export interface WireRequest {
  readonly method: string;
  /** The request target, untouched. */
  readonly target: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: string;
}

/** The result of reading a request from the beginning of a buffer. */
export type ReadResult =
  | { readonly kind: "request"; readonly request: WireRequest; readonly rest: string }
  | { readonly kind: "incomplete" }
  | { readonly kind: "malformed" };

const MOST_HEAD_BYTES = 64 * 1024;

/** The first value of a header, or null. */
export function header(request: WireRequest, name: string): string | null {
  const wanted = name.toLowerCase();
  return request.headers.find(([key]) => key.toLowerCase() === wanted)?.[1] ?? null;
}

/** The body and what is behind it; null where more bytes are needed. */
function readChunked(text: string): { body: string; rest: string } | null {
  let body = "";
  let rest = text;
  for (;;) {
    const end = rest.indexOf("\r\n");
    if (end < 0) return null;
    // A size that is no number, or negative, ends the body. A negative one would otherwise loop for ever.
    const size = Math.max(0, Number.parseInt(rest.slice(0, end), 16) || 0);
    if (rest.length < end + 2 + size + 2) return null;
    body += rest.slice(end + 2, end + 2 + size);
    rest = rest.slice(end + 2 + size + 2);
    if (size === 0) return { body, rest };
  }
}

/** Reads one request from the head of `buffer`. */
export function readRequest(buffer: string): ReadResult {
  const end = buffer.indexOf("\r\n\r\n");
  if (end < 0) return { kind: buffer.length > MOST_HEAD_BYTES ? "malformed" : "incomplete" };
  const [requestLine = "", ...lines] = buffer.slice(0, end).split("\r\n");
  const firstSpace = requestLine.indexOf(" ");
  const lastSpace = requestLine.lastIndexOf(" ");
  if (firstSpace < 1 || lastSpace <= firstSpace) return { kind: "malformed" };
  const headers = lines.map((line) => {
    const colon = line.indexOf(":");
    return colon < 0
      ? ([line, ""] as const)
      : ([line.slice(0, colon), line.slice(colon + 1).trim()] as const);
  });
  const head = {
    method: requestLine.slice(0, firstSpace),
    target: requestLine.slice(firstSpace + 1, lastSpace),
    headers,
    body: "",
  };
  const after = buffer.slice(end + 4);
  if (header(head, "transfer-encoding") !== null) {
    const chunked = readChunked(after);
    if (chunked === null) return { kind: "incomplete" };
    return { kind: "request", request: { ...head, body: chunked.body }, rest: chunked.rest };
  }
  const length = Number(header(head, "content-length") ?? "0");
  if (!Number.isSafeInteger(length) || length < 0) return { kind: "malformed" };
  if (after.length < length) return { kind: "incomplete" };
  return { kind: "request", request: { ...head, body: after.slice(0, length) }, rest: after.slice(length) };
}

/** What is answered. */
export interface WireResponse {
  readonly status: number;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: string;
}

/** The reason phrase of a status. */
export function reason(status: number): string {
  return STATUS_CODES[status] ?? "Unknown";
}

/** The bytes of an answer: never chunked; a HEAD's has the length but not the body. */
export function writeResponse(
  response: WireResponse,
  dateMs: number,
  isHead: boolean,
  close: boolean,
): string {
  const lines = [
    `HTTP/1.1 ${response.status} ${reason(response.status)}`,
    ...response.headers.map(([name, value]) => `${name}: ${value}`),
    `Content-Length: ${Buffer.byteLength(response.body)}`,
    `Date: ${new Date(dateMs).toUTCString()}`,
    "Server: EC2ws",
    `Connection: ${close ? "close" : "keep-alive"}`,
  ];
  return `${lines.join("\r\n")}\r\n\r\n${isHead ? "" : response.body}`;
}
