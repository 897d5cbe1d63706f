import { systemClock } from "../platform/clock.ts";

/** Prometheus' text format (prometheus.io, "Exposition formats"). */
export const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** An answer before it is bytes. */
export interface Answer {
  readonly status: number;
  readonly contentType: "text/plain" | "text/html" | "application/json" | typeof METRICS_TYPE;
  readonly body: string;
  /** Milliseconds since the epoch; without it, when the service started. */
  readonly lastModifiedMs?: number;
  /** The remaining life of the token that was used, or the TTL of the one that was made. */
  readonly tokenTtlSeconds?: number;
  /** For 405. */
  readonly allow?: string;
  /** Seconds after which asking again makes sense; with 503 (RFC 9110, section 10.2.3). */
  readonly retryAfterSeconds?: number;
  /** True where the connection must not be used again. */
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

/** Text as the metadata service has it. */
export const text = (body: string): Answer => ({ status: 200, contentType: "text/plain", body });

/** What a 503 names as Retry-After: what is away is asked again within a second, and SDKs wait no longer. */
const RETRY_AFTER_SECONDS = 1;

/**
 * An error page, short XHTML as the real service's. Says nothing of the cause: that is in our log. A 503 says that asking
 * again in a second makes sense.
 */
export function errorPage(status: number): Answer {
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

let dateSecond = 0;
let dateText = "";

function httpDate(nowMs: number): string {
  const second = Math.floor(nowMs / 1000);
  if (second !== dateSecond) {
    dateSecond = second;
    dateText = new Date(nowMs).toUTCString();
  }
  return dateText;
}

/**
 * The bytes of an answer: never in chunks, never compressed, with the headers that the metadata service sends.
 *
 * @param head true for a HEAD request: the headers of the whole answer, without its body.
 */
export function encodeAnswer(
  answer: Answer,
  options: { head: boolean; keepAlive: boolean; nowMs: number },
): Buffer {
  const lines = [
    `HTTP/1.1 ${answer.status} ${REASONS[answer.status] ?? "Error"}`,
    "Server: EC2ws",
    `Date: ${httpDate(options.nowMs)}`,
    `Last-Modified: ${new Date(answer.lastModifiedMs ?? startedMs).toUTCString()}`,
    `Content-Type: ${answer.contentType}`,
    "Accept-Ranges: none",
    `Content-Length: ${Buffer.byteLength(answer.body, "latin1")}`,
  ];
  if (answer.tokenTtlSeconds !== undefined) {
    lines.push(`X-Aws-Ec2-Metadata-Token-Ttl-Seconds: ${answer.tokenTtlSeconds}`);
  }
  if (answer.allow !== undefined) lines.push(`Allow: ${answer.allow}`);
  if (answer.retryAfterSeconds !== undefined) lines.push(`Retry-After: ${answer.retryAfterSeconds}`);
  lines.push(`Connection: ${options.keepAlive ? "keep-alive" : "close"}`);
  return Buffer.from(`${lines.join("\r\n")}\r\n\r\n${options.head ? "" : answer.body}`, "latin1");
}
