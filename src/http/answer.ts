import { systemClock } from "../platform/clock.ts";

/** An answer before it is encoded. */
export interface Answer {
  readonly status: number;
  readonly contentType: string;
  /** One character for each byte (Latin-1). */
  readonly body: string;
  /** Milliseconds since the epoch. Default: when the process started. */
  readonly lastModifiedMs?: number;
  /** Further headers of the application, by name. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The methods that the target has, for 405. */
  readonly allow?: string;
  /** Seconds after which the client should ask again, for 503 (RFC 9110, section 10.2.3). */
  readonly retryAfterSeconds?: number;
  /** True where the connection must end after the answer. */
  readonly close?: boolean;
}

const REASONS: Record<number, string> = {
  200: "OK",
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  413: "Payload Too Large",
  417: "Expectation Failed",
  503: "Service Unavailable",
};

const startedMs = systemClock.now();

/** The answers that {@link repeated} was told of. */
const repeatedAnswers = new WeakSet<Answer>();

/**
 * Tells that this very object will be given again, so that it is worth keeping its bytes (http/encoded-answers.ts). A copy of it is
 * an answer of its own.
 */
export function repeated(answer: Answer): Answer {
  repeatedAnswers.add(answer);
  return answer;
}

/** Whether {@link repeated} was told of this object. */
export const isRepeated = (answer: Answer): boolean => repeatedAnswers.has(answer);

/** An answer of plain text. */
export const text = (body: string): Answer => ({ status: 200, contentType: "text/plain", body });

/** Retry-After of a 503, in seconds. What is away is asked again within a second, and SDKs wait no longer. */
const RETRY_AFTER_SECONDS = 1;

/**
 * An error page: short XHTML, as the metadata service of EC2 has it. It does not tell the cause, which is in the log. With
 * 503 the client is told to ask again in a second.
 */
export function errorPage(status: number): Answer {
  const known = errorPages.get(status);
  if (known !== undefined) return known;
  const page = repeated(makeErrorPage(status));
  errorPages.set(status, page);
  return page;
}

/** By status, of which there are as many as we use. */
const errorPages = new Map<number, Answer>();

function makeErrorPage(status: number): Answer {
  const title = `${status} - ${REASONS[status] ?? "Error"}`;
  return {
    status,
    ...(status === 503 ? { retryAfterSeconds: RETRY_AFTER_SECONDS } : {}),
    contentType: "text/html",
    body: `<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
	"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>${title}</title>
 </head>
 <body>
  <h1>${title}</h1>
 </body>
</html>
`,
  };
}

/** Dates as HTTP has them (RFC 9110, section 5.6.7). The last ones are kept, since the same few are sent again and again. */
const dates = new Map<number, string>();
const MAX_DATES = 256;

function httpDate(ms: number): string {
  const second = Math.floor(ms / 1000);
  const known = dates.get(second);
  if (known !== undefined) return known;
  if (dates.size >= MAX_DATES) dates.clear();
  const date = new Date(ms).toUTCString();
  dates.set(second, date);
  return date;
}

/** What {@link encodeAnswer} needs to know besides the answer. */
export interface Encoding {
  /** The value of the header Server. */
  readonly server: string;
  /** True for a request by HEAD: the headers of the whole answer, without its body. */
  readonly head: boolean;
  readonly keepAlive: boolean;
  /** Milliseconds since the epoch. */
  readonly nowMs: number;
}

/** The bytes of an answer; never in chunks, never compressed. */
export function encodeAnswer(answer: Answer, { server, head, keepAlive, nowMs }: Encoding): Buffer {
  // Concatenated, which takes half the time of joining a list: this is a good part of what an answer costs.
  let lines =
    `HTTP/1.1 ${answer.status} ${REASONS[answer.status] ?? "Error"}\r\n` +
    `Server: ${server}\r\n` +
    `Date: ${httpDate(nowMs)}\r\n` +
    `Last-Modified: ${httpDate(answer.lastModifiedMs ?? startedMs)}\r\n` +
    `Content-Type: ${answer.contentType}\r\n` +
    "Accept-Ranges: none\r\n" +
    `Content-Length: ${answer.body.length}\r\n`;
  if (answer.headers !== undefined) {
    for (const name in answer.headers) lines += `${name}: ${answer.headers[name]}\r\n`;
  }
  if (answer.allow !== undefined) lines += `Allow: ${answer.allow}\r\n`;
  if (answer.retryAfterSeconds !== undefined) lines += `Retry-After: ${answer.retryAfterSeconds}\r\n`;
  lines += keepAlive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  return Buffer.from(head ? lines : lines + answer.body, "latin1");
}
