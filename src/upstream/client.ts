import { connect, type Socket } from "node:net";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import { MAX_BODY_BYTES, type RawAnswer, readAnswer } from "./answer.ts";

/**
 * The HTTP/1.1 client for the metadata service upstream. It has a client of its own, because whoever is at the other end
 * must be known before the first byte is sent: a token, or the path that is asked for, is not for an impostor to see.
 *
 * node:net and not fetch: Bun's fetch sends plain HTTP through the proxy that HTTP_PROXY names, and no proxy may see the
 * instance role's credentials.
 */

/** A failure that names what was asked and what came, without a body: a body could be a secret. */
export class UpstreamFailure extends Error {}

/** Who is at the other end of a connection to the upstream. */
export type Verdict =
  /** One who may be sent to, and may be believed. */
  | { readonly kind: "trusted" }
  /** Nobody has accepted the connection so far. Who waits no longer calls `giveUp`, which says why. */
  | { readonly kind: "waiting"; readonly giveUp: () => string }
  /** It was trusted and has closed the connection: what it sent may be believed, and nothing more is sent. */
  | { readonly kind: "gone" }
  /** Nobody who may be sent to or believed, and why. */
  | { readonly kind: "refused"; readonly why: string };

/** Watches over one connection. */
export interface ConnectionGuard {
  /** @param local our end of the connection. */
  check(local: Endpoint): Verdict;
}

/** Whether whoever answers at the upstream's address may; src/upstream/guard.ts is the real one. */
export interface UpstreamGuard {
  /**
   * Asked before each connection is made.
   *
   * @returns what watches over that connection, or why it must not be made.
   */
  open(endpoint: Endpoint): ConnectionGuard | { readonly refused: string };
}

const UNGUARDED: UpstreamGuard = { open: () => ({ check: () => ({ kind: "trusted" }) }) };

/** Milliseconds for one request, with the wait for a connection. */
const TIMEOUT_MS = 2_000;
/**
 * Milliseconds between two looks at a connection that nobody has accepted yet; about 500 in all. The first look comes at
 * once: as a rule the connection has been accepted by then.
 */
const ACCEPT_WAITS_MS = [1, 1, 2, 4, 8, 16, 32, 64, 128, 244];
/** Connections at once, and milliseconds that an idle one is kept. */
const MAX_CONNECTIONS = 8;
const IDLE_MS = 30_000;
const USER_AGENT = "imdsproxy";

export interface UpstreamRequest {
  readonly method: "GET" | "PUT";
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
}

export class UpstreamClient {
  readonly #guard: UpstreamGuard;
  readonly #clock: Clock;
  readonly #idle = new Set<Connection>();
  /** Requests that wait for one of the connections. */
  readonly #waiting: (() => void)[] = [];
  #busy = 0;
  #closed = false;

  constructor(options: { guard?: UpstreamGuard | undefined; clock: Clock }) {
    this.#guard = options.guard ?? UNGUARDED;
    this.#clock = options.clock;
  }

  /**
   * One request and its answer.
   *
   * @throws UpstreamFailure
   */
  async send(endpoint: Endpoint, request: UpstreamRequest): Promise<RawAnswer> {
    const deadline = new AbortController();
    const cancel = this.#clock.schedule(TIMEOUT_MS, () =>
      deadline.abort(new UpstreamFailure(`no answer from ${endpointText(endpoint)} within ${TIMEOUT_MS} ms`)),
    );
    try {
      await this.#acquire(deadline.signal);
      try {
        return await this.#exchange(endpoint, encodeRequest(endpoint, request), deadline.signal);
      } finally {
        this.#busy--;
        this.#waiting.shift()?.();
      }
    } finally {
      cancel();
    }
  }

  /** Closes the connections that no request is using. */
  closeIdle(): void {
    for (const connection of this.#idle) connection.destroy();
    this.#idle.clear();
  }

  close(): void {
    this.#closed = true;
    this.closeIdle();
  }

  /** Waits until fewer than {@link MAX_CONNECTIONS} are in use, and counts one more. @throws the signal's reason. */
  async #acquire(signal: AbortSignal): Promise<void> {
    while (this.#busy >= MAX_CONNECTIONS) {
      await new Promise<void>((resolve, reject) => {
        const resume = () => {
          signal.removeEventListener("abort", giveUp);
          resolve();
        };
        const giveUp = () => {
          const index = this.#waiting.indexOf(resume);
          if (index >= 0) this.#waiting.splice(index, 1);
          reject(signal.reason);
        };
        signal.addEventListener("abort", giveUp, { once: true });
        this.#waiting.push(resume);
      });
    }
    this.#busy++;
  }

  async #exchange(endpoint: Endpoint, bytes: Buffer, signal: AbortSignal): Promise<RawAnswer> {
    const kept = this.#takeIdle(endpoint);
    if (kept !== null) {
      const answer = await this.#answerOn(kept, bytes, signal).catch((error: unknown) => {
        // The service closed a connection that had been idle just when we used it: that says nothing of the request.
        if (kept.isUnanswered && !signal.aborted) return null;
        throw error;
      });
      if (answer !== null) return answer;
    }
    const guard = this.#guard.open(endpoint);
    if ("refused" in guard) throw new UpstreamFailure(guard.refused);
    const fresh = await openConnection(endpoint, guard, this.#clock, signal);
    return this.#answerOn(fresh, bytes, signal);
  }

  /** A connection from before whose other end is still there, and still trusted. */
  #takeIdle(endpoint: Endpoint): Connection | null {
    for (const connection of this.#idle) {
      this.#idle.delete(connection);
      if (connection.isTo(endpoint) && connection.verdict().kind === "trusted") return connection;
      connection.destroy();
    }
    return null;
  }

  async #answerOn(connection: Connection, bytes: Buffer, signal: AbortSignal): Promise<RawAnswer> {
    const answer = await connection.exchange(bytes, signal);
    if (!answer.reusable || this.#closed) connection.destroy();
    else {
      this.#idle.add(connection);
      connection.rest(this.#clock, IDLE_MS, () => this.#idle.delete(connection));
    }
    return answer;
  }
}

function encodeRequest(endpoint: Endpoint, { method, path, headers }: UpstreamRequest): Buffer {
  const text = endpointText(endpoint);
  const lines = [
    `${method} ${path} HTTP/1.1`,
    `Host: ${endpoint.port === 80 ? text.slice(0, -":80".length) : text}`,
    `User-Agent: ${USER_AGENT}`,
    "Accept: */*",
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
    "Connection: keep-alive",
  ];
  return Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1");
}

/**
 * Connects, and waits until the other end has been accepted by somebody who is trusted. Nothing is sent before that.
 *
 * @throws UpstreamFailure
 */
async function openConnection(
  endpoint: Endpoint,
  guard: ConnectionGuard,
  clock: Clock,
  signal: AbortSignal,
): Promise<Connection> {
  const connection = await connected(endpoint, guard, signal);
  try {
    for (let look = 0; ; look++) {
      const verdict = connection.verdict();
      if (verdict.kind === "trusted") return connection;
      if (verdict.kind === "gone")
        throw new UpstreamFailure(`${endpointText(endpoint)} closed the connection`);
      if (verdict.kind === "refused") throw new UpstreamFailure(verdict.why);
      const waitMs = ACCEPT_WAITS_MS[look];
      if (waitMs === undefined) throw new UpstreamFailure(verdict.giveUp());
      await connection.during(signal, (settle) => clock.schedule(waitMs, settle));
    }
  } catch (error) {
    connection.destroy();
    throw error;
  }
}

/** @throws UpstreamFailure where nobody answers, or the signal comes first. */
function connected(endpoint: Endpoint, guard: ConnectionGuard, signal: AbortSignal): Promise<Connection> {
  return new Promise((resolve, reject) => {
    // With allowHalfOpen our end stays as it is when the other end closes, until we have looked who that was.
    const socket = connect({
      host: endpoint.address,
      port: endpoint.port,
      noDelay: true,
      allowHalfOpen: true,
    });
    const done = () => {
      signal.removeEventListener("abort", giveUp);
      socket.removeListener("connect", onConnect);
      socket.removeListener("error", onError);
    };
    const onConnect = () => {
      // Its listeners at once: what the other end does next must find them.
      resolve(new Connection(endpoint, socket, guard));
      done();
    };
    const onError = (error: NodeJS.ErrnoException) => {
      socket.on("error", () => {});
      done();
      const code = error.code ?? error.name;
      const what = code === "ECONNREFUSED" ? "nobody listens at" : "no connection to";
      reject(new UpstreamFailure(`${what} ${endpointText(endpoint)} (${code})`));
    };
    const giveUp = () => {
      socket.on("error", () => {});
      done();
      socket.destroy();
      reject(
        new UpstreamFailure(
          `${endpointText(endpoint)} does not accept connections: no answer to our request for one`,
        ),
      );
    };
    socket.once("connect", onConnect);
    socket.once("error", onError);
    if (signal.aborted) giveUp();
    else signal.addEventListener("abort", giveUp, { once: true });
  });
}

/** One connection, and what has come over it since the last request. */
class Connection {
  readonly #endpoint: Endpoint;
  readonly #socket: Socket;
  readonly #guard: ConnectionGuard;
  /** Our end, kept from the start: a socket that is closed tells it no more. */
  readonly #local: Endpoint | null;
  #unread: Buffer = Buffer.alloc(0);
  /** The other end has closed its side, or all of it; the text of the error where there was one. */
  #ended: { readonly why: string } | null = null;
  #onChange: () => void = () => {};
  #cancelRest: () => void = () => {};

  constructor(endpoint: Endpoint, socket: Socket, guard: ConnectionGuard) {
    this.#endpoint = endpoint;
    this.#socket = socket;
    this.#guard = guard;
    const { localAddress, localPort } = socket;
    this.#local =
      localAddress === undefined || localPort === undefined
        ? null
        : { address: localAddress, port: localPort };
    const end = (why: string) => {
      this.#ended ??= { why };
      this.#onChange();
    };
    socket.on("data", (bytes: Buffer) => {
      this.#unread = this.#unread.length === 0 ? bytes : Buffer.concat([this.#unread, bytes]);
      this.#onChange();
    });
    socket.on("end", () => end("it closed the connection"));
    socket.on("close", () => end("the connection is closed"));
    socket.on("error", (error: NodeJS.ErrnoException) => end(error.code ?? error.name));
  }

  isTo(endpoint: Endpoint): boolean {
    return endpoint.address === this.#endpoint.address && endpoint.port === this.#endpoint.port;
  }

  /** Whether not a byte has come since the last request. */
  get isUnanswered(): boolean {
    return this.#unread.length === 0;
  }

  verdict(): Verdict {
    if (this.#local === null) return { kind: "refused", why: "our end of the connection has no address" };
    return this.#guard.check(this.#local);
  }

  /** Sends a request over a connection whose verdict was `trusted`, and reads the answer. */
  async exchange(request: Buffer, signal: AbortSignal): Promise<RawAnswer> {
    this.#cancelRest();
    try {
      if (!this.isUnanswered) throw new UpstreamFailure("it sent something that nobody asked for");
      this.#socket.write(request);
      for (;;) {
        const read = readAnswer(this.#unread, this.#ended !== null);
        if (read.kind === "malformed") {
          throw new UpstreamFailure(
            this.isUnanswered && this.#ended !== null ? `no answer (${this.#ended.why})` : read.why,
          );
        }
        if (read.kind === "complete") {
          // At the moment of the answer again, before anything of it is believed.
          const verdict = this.verdict();
          if (verdict.kind === "refused") throw new UpstreamFailure(verdict.why);
          if (verdict.kind === "waiting") throw new UpstreamFailure("nobody owns what answered");
          this.#unread = Buffer.alloc(0);
          return verdict.kind === "gone" ? { ...read.answer, reusable: false } : read.answer;
        }
        if (this.#unread.length > 2 * MAX_BODY_BYTES) throw new UpstreamFailure("its answer is too long");
        await this.during(signal);
      }
    } catch (error) {
      this.destroy();
      throw error;
    }
  }

  /**
   * Waits until something comes over the connection, or `also` settles.
   *
   * @throws the signal's reason, where it comes first; UpstreamFailure where nothing can come any more.
   */
  during(signal: AbortSignal, also?: (settle: () => void) => () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      let cancel = () => {};
      const done = () => {
        signal.removeEventListener("abort", giveUp);
        this.#onChange = () => {};
        cancel();
      };
      const giveUp = () => {
        done();
        reject(signal.reason);
      };
      const settle = () => {
        done();
        resolve();
      };
      if (signal.aborted) {
        reject(signal.reason);
        return;
      }
      if (this.#ended !== null) {
        reject(new UpstreamFailure(`no answer (${this.#ended.why})`));
        return;
      }
      signal.addEventListener("abort", giveUp, { once: true });
      this.#onChange = settle;
      if (also !== undefined) cancel = also(settle);
    });
  }

  /** Leaves the connection open for the next request, for `idleMs`. Whatever comes over it meanwhile ends it. */
  rest(clock: Clock, idleMs: number, onEnd: () => void): void {
    const end = () => {
      onEnd();
      this.destroy();
    };
    const cancel = clock.schedule(idleMs, end);
    this.#onChange = end;
    this.#cancelRest = () => {
      cancel();
      this.#onChange = () => {};
      this.#cancelRest = () => {};
    };
  }

  destroy(): void {
    this.#cancelRest();
    this.#onChange = () => {};
    this.#socket.destroy();
  }
}
