/**
 * A strict parser of the upstream's HTTP/1.1 answers (RFC 9112). Pure. An answer that two parsers could read differently is
 * malformed. A body has a length, comes in chunks, or ends with the connection.
 */

/** A complete answer. */
export interface RawAnswer {
  readonly status: number;
  /** By name in lower case. Of a repeated header the first value counts. */
  readonly headers: ReadonlyMap<string, string>;
  /** One character for each byte. */
  readonly body: string;
  /** Whether the connection may be used again. */
  readonly reusable: boolean;
}

export type ReadAnswer =
  /** More bytes are needed. */
  | { readonly kind: "incomplete" }
  | { readonly kind: "malformed"; readonly why: string }
  | { readonly kind: "complete"; readonly answer: RawAnswer };

const MAX_HEAD_BYTES = 16_384;
export const MAX_BODY_BYTES = 1_048_576;
/** 1xx answers before the one that counts. */
const MAX_INTERIM = 4;

const INCOMPLETE: ReadAnswer = { kind: "incomplete" };
const malformed = (why: string): ReadAnswer => ({ kind: "malformed", why });

/**
 * Reads the answer to one GET or PUT.
 *
 * @param bytes everything that has come since the request.
 * @param ended whether the other end has closed its side, so that nothing more will come.
 */
export function readAnswer(bytes: Buffer, ended: boolean): ReadAnswer {
  let at = 0;
  for (let interim = 0; ; interim++) {
    const end = bytes.indexOf("\r\n\r\n", at, "latin1");
    if (end < 0 || end - at > MAX_HEAD_BYTES) {
      if (bytes.length - at > MAX_HEAD_BYTES) return malformed("its answer's head is too long");
      return ended ? malformed("it closed the connection within its answer") : INCOMPLETE;
    }
    const head = readHead(bytes.toString("latin1", at, end));
    if (head === null) return malformed("its answer is no HTTP");
    at = end + 4;
    if (head.status >= 200) return readBody(bytes.subarray(at), head, ended);
    if (head.status === 101 || interim >= MAX_INTERIM) return malformed("its answer is no HTTP");
  }
}

interface Head {
  readonly minor: number;
  readonly status: number;
  readonly headers: Map<string, string>;
  /** How often Content-Length and Transfer-Encoding came. */
  readonly framings: number;
}

function readHead(text: string): Head | null {
  const [first = "", ...lines] = text.split("\r\n");
  const status = /^HTTP\/1\.([01]) ([1-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?$/.exec(first);
  if (status === null) return null;
  const headers = new Map<string, string>();
  let framings = 0;
  for (const line of lines) {
    const field = /^([!#$%&'*+.^_`|~\w-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*$/.exec(line);
    const name = field?.[1]?.toLowerCase();
    const value = field?.[2];
    if (name === undefined || value === undefined) return null;
    if (name === "content-length" || name === "transfer-encoding") framings++;
    if (!headers.has(name)) headers.set(name, value);
  }
  return { minor: Number(status[1]), status: Number(status[2]), headers, framings };
}

function readBody(rest: Buffer, { minor, status, headers, framings }: Head, ended: boolean): ReadAnswer {
  const tokens = (headers.get("connection") ?? "").toLowerCase().split(/[\t ]*,[\t ]*/);
  const keeps = minor === 1 ? !tokens.includes("close") : tokens.includes("keep-alive");
  const complete = (body: Buffer, restLength: number, reusable: boolean): ReadAnswer =>
    body.length > MAX_BODY_BYTES
      ? malformed("its answer is too long")
      : {
          kind: "complete",
          answer: {
            status,
            headers,
            body: body.toString("latin1"),
            // Bytes behind the answer belong to no request, so the connection cannot be used again.
            reusable: reusable && keeps && !ended && restLength === 0,
          },
        };
  if (framings > 1) return malformed("its answer has two lengths");
  if (status === 204 || status === 304) return complete(Buffer.alloc(0), rest.length, framings === 0);

  const length = headers.get("content-length");
  if (length !== undefined) {
    if (!/^\d{1,10}$/.test(length)) return malformed("its answer's length is no number");
    const size = Number(length);
    if (size > MAX_BODY_BYTES) return malformed("its answer is too long");
    if (rest.length >= size) return complete(rest.subarray(0, size), rest.length - size, true);
    return ended ? malformed("it closed the connection within its answer") : INCOMPLETE;
  }
  const coding = headers.get("transfer-encoding");
  if (coding !== undefined) {
    if (coding.toLowerCase() !== "chunked" || minor !== 1)
      return malformed("its answer has an unknown transfer coding");
    const chunks = readChunks(rest);
    if (chunks === null) return malformed("its answer's chunks cannot be read");
    if (chunks !== "incomplete") return complete(chunks.body, rest.length - chunks.length, true);
    return ended ? malformed("it closed the connection within its answer") : INCOMPLETE;
  }
  if (rest.length > MAX_BODY_BYTES) return malformed("its answer is too long");
  return ended ? complete(rest, 0, false) : INCOMPLETE;
}

/** The body of the chunks and the number of bytes that they take. Trailers are discarded. Null where they are malformed. */
function readChunks(bytes: Buffer): { body: Buffer; length: number } | "incomplete" | null {
  const parts: Buffer[] = [];
  let total = 0;
  let at = 0;
  for (;;) {
    const end = bytes.indexOf("\r\n", at, "latin1");
    if (end < 0) return bytes.length - at > 1_024 ? null : "incomplete";
    const size = /^([0-9a-fA-F]{1,6})(?:[ \t]*;[\t\x20-\x7e]*)?$/.exec(
      bytes.toString("latin1", at, end),
    )?.[1];
    if (size === undefined) return null;
    at = end + 2;
    const length = Number.parseInt(size, 16);
    if (length === 0) break;
    total += length;
    if (total > MAX_BODY_BYTES) return null;
    if (bytes.length < at + length + 2) return "incomplete";
    if (bytes.toString("latin1", at + length, at + length + 2) !== "\r\n") return null;
    parts.push(bytes.subarray(at, at + length));
    at += length + 2;
  }
  for (;;) {
    const end = bytes.indexOf("\r\n", at, "latin1");
    if (end < 0) return bytes.length - at > MAX_HEAD_BYTES ? null : "incomplete";
    const isLast = end === at;
    at = end + 2;
    if (isLast) return { body: Buffer.concat(parts), length: at };
  }
}
