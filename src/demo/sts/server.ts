import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Endpoint } from "../../identity/endpoint.ts";
import { sleep, systemClock } from "../../platform/clock.ts";
import type { StsPrincipal } from "./principals.ts";
import {
  answer,
  authenticate,
  type RoleTrust,
  readQuestion,
  type StsAnswer,
  type StsDirectory,
} from "./service.ts";

/** How the stand-in behaves for now. */
export interface StsMode {
  /** By how much its clock is ahead of this machine's, in milliseconds. */
  readonly clockOffsetMs: number;
  /** The trust policies; null where everyone may assume every role. */
  readonly roles: Readonly<Record<string, RoleTrust>> | null;
  /** Upper limit of a session's life in seconds; null for none. */
  readonly sessionSeconds: number | null;
}

/** One request that reached the stand-in. */
export interface StsLogEntry {
  readonly atMs: number;
  /** "" where there was none. */
  readonly action: string;
  /** Who signed it, or null where nobody did that is known. */
  readonly principalArn: string | null;
  /** The access key that it was signed with, or null likewise. */
  readonly accessKeyId: string | null;
  /** The access key of the session that was given for it; null where none was. */
  readonly issuedKeyId: string | null;
  /** The form as sent: RoleArn, RoleSessionName, Tags.member.1.Key, … */
  readonly parameters: Readonly<Record<string, string>>;
  readonly userAgent: string;
  /** What was answered, or null where a fault kept it from answering. */
  readonly status: number | null;
  /** AWS's error code, or null. */
  readonly code: string | null;
}

/** Where the stand-in serves and whom it knows. All of it is JSON, so that it can be handed to another process. */
export interface StsStandInOptions {
  /** Port 0 takes a free one. */
  readonly listen: readonly Endpoint[];
  /** Known from the start: the instance role. */
  readonly principals: readonly StsPrincipal[];
  readonly mode?: Partial<StsMode>;
}

/** How one request is answered. */
export interface StsOutcome {
  /** Null: none at all. */
  readonly answer: StsAnswer | null;
  /** Whether the connection ends without an answer; else it stays open. */
  readonly cut: boolean;
  /** Milliseconds before the answer. */
  readonly delayMs: number;
}

/**
 * Is asked before the service. Tests inject faults with it.
 *
 * @param action of a request whose signature is right; null where it is not, and `serve` refuses it.
 * @param serve makes the service's own answer.
 */
export type StsIntercept = (action: string | null, serve: () => StsAnswer) => StsOutcome;

const withoutFaults: StsIntercept = (_, serve) => ({ answer: serve(), cut: false, delayMs: 0 });

/** A running stand-in for AWS STS. */
export interface StsStandIn {
  /** Where it listens, in the order of `listen`. */
  readonly endpoints: readonly Endpoint[];
  /** Changes the named parts of its behaviour. */
  set(mode: Partial<StsMode>): void;
  /** Makes a principal known, or replaces one. */
  add(principal: StsPrincipal): void;
  /** Forgets a principal. */
  remove(accessKeyId: string): void;
  /** Everything that was asked since the start or the last clear; the last 20,000 at most. */
  log(): readonly StsLogEntry[];
  clearLog(): void;
  stop(): Promise<void>;
}

const MOST_LOG_ENTRIES = 20_000;
/** AWS's own limit on a query request's body is of this order; ours only bounds memory. */
const MOST_BODY_BYTES = 256 * 1024;

/**
 * Starts a stand-in for STS that checks every signature; rejects where an address cannot be had.
 * node:http and not Bun.serve, which cannot cut a connection without an answer.
 */
export async function startStsStandIn(
  options: StsStandInOptions,
  intercept: StsIntercept = withoutFaults,
): Promise<StsStandIn> {
  let mode: StsMode = {
    clockOffsetMs: 0,
    roles: null,
    sessionSeconds: null,
    ...options.mode,
  };
  let log: StsLogEntry[] = [];
  const directory: StsDirectory = {
    principals: new Map(),
    roles: mode.roles,
    sessionSeconds: mode.sessionSeconds,
  };
  for (const principal of options.principals) directory.principals.set(principal.accessKeyId, principal);

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const nowMs = systemClock.now() + mode.clockOffsetMs;
    const body = await readBody(request);
    const headers = joinedHeaders(request);
    const question = readQuestion(body);
    const signed = { method: request.method ?? "", target: request.url ?? "", headers, body };
    const principal = authenticate(directory, signed, nowMs);
    const known = "accessKeyId" in principal ? principal : null;
    const outcome =
      known === null
        ? intercept(null, () => principal as StsAnswer)
        : intercept(question.action, () => answer(directory, known, question, nowMs));
    const reply = outcome.answer;
    if (log.length >= MOST_LOG_ENTRIES) log = log.slice(MOST_LOG_ENTRIES / 2);
    log.push({
      atMs: systemClock.now(),
      action: question.action,
      principalArn: known?.arn ?? null,
      accessKeyId: known?.accessKeyId ?? null,
      issuedKeyId: /<AccessKeyId>(\w+)</.exec(reply?.body ?? "")?.[1] ?? null,
      parameters: question.parameters,
      userAgent: headers["user-agent"] ?? "",
      status: reply?.status ?? null,
      code: reply?.code ?? null,
    });
    if (outcome.delayMs > 0) await sleep(outcome.delayMs);
    if (reply === null) {
      if (outcome.cut) request.socket.destroy();
      return;
    }
    response.writeHead(reply.status, {
      "Content-Type": "text/xml",
      Date: new Date(nowMs).toUTCString(),
      "x-amzn-RequestId": randomUUID(),
      ...reply.headers,
    });
    response.end(reply.body);
  }

  const servers: Server[] = [];
  const endpoints: Endpoint[] = [];
  for (const { address, port } of options.listen) {
    const server = createServer((request, response) => {
      serve(request, response).catch(() => request.socket.destroy());
    });
    servers.push(server);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, address, resolve);
    });
    endpoints.push({ address, port: (server.address() as AddressInfo).port });
  }

  return {
    endpoints,
    set(changes) {
      mode = { ...mode, ...changes };
      directory.roles = mode.roles;
      directory.sessionSeconds = mode.sessionSeconds;
    },
    add: (principal) => void directory.principals.set(principal.accessKeyId, principal),
    remove: (accessKeyId) => void directory.principals.delete(accessKeyId),
    log: () => log,
    clearLog() {
      log = [];
    },
    async stop() {
      for (const server of servers) {
        const closed = new Promise<void>((resolve) => server.close(() => resolve()));
        server.closeAllConnections();
        await closed;
      }
    },
  };
}

async function readBody(request: IncomingMessage): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > MOST_BODY_BYTES) throw new RangeError("the request's body is too long");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** One value for each name: the signature joins repeated headers by a comma. */
function joinedHeaders(request: IncomingMessage): Record<string, string> {
  const joined: Record<string, string> = {};
  for (let index = 0; index + 1 < request.rawHeaders.length; index += 2) {
    const name = (request.rawHeaders[index] ?? "").toLowerCase();
    const value = request.rawHeaders[index + 1] ?? "";
    joined[name] = joined[name] === undefined ? value : `${joined[name]},${value}`;
  }
  return joined;
}
