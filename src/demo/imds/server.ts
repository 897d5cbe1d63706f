import type { Endpoint } from "../../identity/endpoint.ts";
import { systemClock } from "../../platform/clock.ts";
import type { InstanceSecrets } from "./secrets.ts";
import { answer, type ImdsMode, type ImdsService } from "./service.ts";
import { createTokenMint } from "./tokens.ts";
import { DEFAULT_FACTS, type InstanceFacts, metadataTree } from "./tree.ts";
import { readRequest, type WireRequest, type WireResponse, writeResponse } from "./wire.ts";

/** One request that reached the stand-in. */
export interface ImdsLogEntry {
  readonly atMs: number;
  readonly method: string;
  /** The request target as it was sent. */
  readonly target: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly peer: Endpoint;
  /** What was answered, or null where a fault kept it from answering. */
  readonly status: number | null;
}

/** Where and as whom the stand-in serves. */
export interface ImdsOptions {
  /** Port 0 takes a free one. */
  readonly listen: readonly Endpoint[];
  readonly secrets: InstanceSecrets;
  /** Default DEFAULT_FACTS. */
  readonly facts?: InstanceFacts;
  /** How it behaves at first; default: tokens optional. */
  readonly mode?: Partial<ImdsMode>;
}

/**
 * Is asked before the service. It gives an answer in place of the service's own; or `serve` for the service's own, `silence` for none,
 * `cut` to end the connection without one. Tests inject faults with it.
 */
export type ImdsIntercept = (request: WireRequest) => Promise<WireResponse | "serve" | "silence" | "cut">;

/** A running stand-in for the instance metadata service. */
export interface ImdsStandIn {
  /** Where it listens, in the order of `listen`; empty while it is stopped. */
  endpoints(): readonly Endpoint[];
  /** Changes the named parts of its behaviour. */
  set(mode: Partial<ImdsMode>): void;
  /** Everything that was asked since the start or the last clear; the last 50,000 at most. */
  log(): readonly ImdsLogEntry[];
  clearLog(): void;
  /** Closes every connection and listens no more. */
  stop(): void;
  /** Listens again after `stop`. */
  listen(): void;
}

const MOST_LOG_ENTRIES = 50_000;

interface Connection {
  /** Bytes that are not a whole request yet. */
  unread: string;
  /** Bytes that the kernel did not take yet. */
  unsent: Buffer;
  /** One answer after the other, in the order of the requests. */
  turn: Promise<void>;
  closing: boolean;
}

/** Starts a stand-in for the EC2 metadata service; throws where an address cannot be had. */
export function startImds(options: ImdsOptions, intercept?: ImdsIntercept): ImdsStandIn {
  const facts = options.facts ?? DEFAULT_FACTS;
  const startedMs = systemClock.now();
  const service: ImdsService = {
    tree: metadataTree(facts, options.secrets, startedMs),
    mint: createTokenMint(options.secrets.marker),
    roleName: facts.roleName,
    startedMs,
  };
  let mode: ImdsMode = { tokens: "optional", ...options.mode };
  let log: ImdsLogEntry[] = [];
  let listeners: Bun.TCPSocketListener<Connection>[] = [];

  function record(request: WireRequest, socket: Bun.Socket<Connection>, status: number | null): void {
    if (log.length >= MOST_LOG_ENTRIES) log = log.slice(MOST_LOG_ENTRIES / 2);
    log.push({
      atMs: systemClock.now(),
      method: request.method,
      target: request.target,
      headers: request.headers,
      peer: { address: socket.remoteAddress, port: socket.remotePort },
      status,
    });
  }

  function flush(socket: Bun.Socket<Connection>): void {
    const connection = socket.data;
    if (connection.unsent.length > 0) {
      const sent = socket.write(connection.unsent);
      connection.unsent = connection.unsent.subarray(Math.max(sent, 0));
    }
    if (connection.unsent.length === 0 && connection.closing) socket.end();
  }

  async function respond(socket: Bun.Socket<Connection>, request: WireRequest): Promise<void> {
    const outcome = (await intercept?.(request)) ?? "serve";
    if (outcome === "silence" || outcome === "cut") {
      record(request, socket, null);
      if (outcome === "cut") socket.terminate();
      return;
    }
    const response = outcome === "serve" ? answer(service, mode, request, systemClock.now()) : outcome;
    record(request, socket, response.status);
    send(socket, request, response);
  }

  function send(socket: Bun.Socket<Connection>, request: WireRequest, response: WireResponse): void {
    const close = request.headers.some(
      ([name, value]) => name.toLowerCase() === "connection" && value.toLowerCase() === "close",
    );
    const bytes = Buffer.from(writeResponse(response, systemClock.now(), request.method === "HEAD", close));
    socket.data.unsent = Buffer.concat([socket.data.unsent, bytes]);
    socket.data.closing ||= close;
    flush(socket);
  }

  function listen(): void {
    listeners = options.listen.map(({ address, port }) =>
      Bun.listen<Connection>({
        hostname: address,
        port,
        socket: {
          open(socket) {
            socket.data = { unread: "", unsent: Buffer.alloc(0), turn: Promise.resolve(), closing: false };
          },
          data(socket, bytes) {
            const connection = socket.data;
            connection.unread += bytes.toString("latin1");
            for (;;) {
              const result = readRequest(connection.unread);
              if (result.kind === "incomplete") return;
              if (result.kind === "malformed") {
                socket.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                return;
              }
              connection.unread = result.rest;
              connection.turn = connection.turn.then(() => respond(socket, result.request));
            }
          },
          drain: flush,
          error(socket) {
            socket.terminate();
          },
        },
      }),
    );
  }

  function close(): void {
    for (const listener of listeners) listener.stop(true);
    listeners = [];
  }

  listen();
  return {
    endpoints: () => listeners.map(({ hostname, port }) => ({ address: hostname, port })),
    set(change) {
      mode = { ...mode, ...change };
    },
    log: () => log,
    clearLog() {
      log = [];
    },
    stop: close,
    listen,
  };
}
