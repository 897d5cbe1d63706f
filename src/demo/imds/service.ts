/**
 * The metadata service of the simulated node: a request in, an answer out. Pure but for its token mint.
 * Statuses and headers: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html
 * and what clients rely on (botocore/utils.py IMDSFetcher, smithy-rs aws-config/src/imds/client.rs).
 */
import type { TokenMint } from "./tokens.ts";
import { lookup, type MetadataDirectory } from "./tree.ts";
import { header, reason, type WireRequest, type WireResponse } from "./wire.ts";

/** How the service behaves for now. */
export interface ImdsMode {
  /** Whether IMDSv1 (a request without a token) is answered. */
  readonly tokens: "optional" | "required";
}

const TTL_HEADER = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds";

/** The short XHTML page that EC2 sends with an error. */
export function errorPage(status: number): WireResponse {
  const title = `${status} - ${reason(status)}`;
  const body = [
    '<?xml version="1.0" encoding="iso-8859-1"?>',
    '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"',
    '\t"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">',
    '<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">',
    ` <head>\n  <title>${title}</title>\n </head>`,
    ` <body>\n  <h1>${title}</h1>\n </body>`,
    "</html>\n",
  ].join("\n");
  return { status, headers: [["Content-Type", "text/html"]], body };
}

/** What answers requests: the tree, who makes tokens, and whose role it is. */
export interface ImdsService {
  readonly tree: MetadataDirectory;
  readonly mint: TokenMint;
  readonly roleName: string;
  readonly startedMs: number;
}

/** Answers one request as the mode says. */
export function answer(
  service: ImdsService,
  mode: ImdsMode,
  request: WireRequest,
  nowMs: number,
): WireResponse {
  if (/^\/+latest\/+api\/+token\/*$/.test(request.target)) return answerToken(service, request, nowMs);
  if (request.method === "PUT") return errorPage(403);
  if (request.method !== "GET" && request.method !== "HEAD") return errorPage(405);
  return answerMetadata(service, mode, request, nowMs);
}

function answerToken(service: ImdsService, request: WireRequest, nowMs: number): WireResponse {
  if (header(request, "expect") !== null) return errorPage(417);
  if (request.method !== "PUT") {
    return {
      status: request.method === "OPTIONS" ? 200 : 405,
      headers: [["Allow", "OPTIONS, PUT"]],
      body: "",
    };
  }
  // This header shows that a reverse proxy forwards the request: a token must not leave the node through one.
  if (header(request, "x-forwarded-for") !== null) return errorPage(403);
  const ttl = header(request, TTL_HEADER) ?? "";
  if (!/^\d{1,5}$/.test(ttl) || Number(ttl) < 1 || Number(ttl) > 21600) return errorPage(400);
  return text(service.mint.issue(Number(ttl), nowMs), [[TTL_HEADER, String(Number(ttl))]]);
}

function answerMetadata(
  service: ImdsService,
  mode: ImdsMode,
  request: WireRequest,
  nowMs: number,
): WireResponse {
  const token = header(request, "x-aws-ec2-metadata-token");
  const secondsLeft = token === null ? null : service.mint.secondsLeft(token, nowMs);
  if (token === null ? mode.tokens === "required" : secondsLeft === null) return errorPage(401);
  const body = lookup(service.tree, request.target);
  if (body === null) return errorPage(404);
  return text(body, [
    ["Accept-Ranges", "none"],
    ["Last-Modified", new Date(service.startedMs).toUTCString()],
    ...(secondsLeft === null ? [] : [[TTL_HEADER, String(secondsLeft)] as const]),
  ]);
}

/** What is found, as text. */
export function text(body: string, headers: WireResponse["headers"]): WireResponse {
  return { status: 200, headers: [["Content-Type", "text/plain"], ...headers], body };
}
