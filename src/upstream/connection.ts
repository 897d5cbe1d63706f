import { connect, type Socket } from "node:net";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import { MAX_BODY_BYTES, type RawAnswer, readAnswer } from "./answer.ts";
import { connectMarked, mayBeLocked } from "./imds-lock.ts";

/** The upstream did not answer, or not as it should. The message has nothing of a body, which could be a secret. */
export class UpstreamFailure extends Error {}

/** What a guard says about the other end of a connection to the upstream. */
export type Verdict =
  /** It may be sent requests, and its answers are believed. */
  | { readonly kind: "trusted" }
  /** No process has accepted the connection yet. A caller that stops waiting calls `giveUp`, which returns the reason. */
  | { readonly kind: "waiting"; readonly giveUp: () => string }
  /** It was trusted, and has closed the connection: what it sent is believed, but nothing more is sent to it. */
  | { readonly kind: "gone" }
  /** It is not trusted, for this reason: nothing is sent to it, and nothing that it sent is believed. */
  | { readonly kind: "refused"; readonly why: string };

/** Checks one connection. */
export interface ConnectionGuard {
  /** @param local our end of the connection. */
  check(local: Endpoint): Verdict;
}

/** Checks who answers at the upstream's address. src/upstream/guard.ts implements it. */
export interface UpstreamGuard {
  /**
   * Called before each connection is made.
   *
   * @returns what checks that connection, or why it must not be made.
   */
  open(endpoint: Endpoint): ConnectionGuard | { readonly refused: string };
}

/**
 * Milliseconds between two checks of a connection that no process has accepted yet, about 500 in all. The first check comes
 * at once, because by then the connection has usually been accepted.
 */
const ACCEPT_WAITS_MS = [1, 1, 2, 4, 8, 16, 32, 64, 128, 244];

/**
 * Connects, and waits until a trusted process has accepted the connection. Nothing is sent before that.
 *
 * @throws UpstreamFailure
 */
export async function openConnection(
  endpoint: Endpoint,
  guard: ConnectionGuard,
  clock: Clock,
  signal: AbortSignal,
): Promise<Connection> {
  const connection = await connected(endpoint, guard, clock, signal);
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

/** Why there is no connection; the code as Node names it. */
const noConnection = (endpoint: Endpoint, code: string): UpstreamFailure =>
  new UpstreamFailure(
    `${code === "ECONNREFUSED" ? "nobody listens at" : "no connection to"} ${endpointText(endpoint)} (${code})`,
  );
const notAccepted = (endpoint: Endpoint): UpstreamFailure =>
  new UpstreamFailure(
    `${endpointText(endpoint)} does not accept connections: no answer to our request for one`,
  );

/** @throws UpstreamFailure where nothing answers, or the signal is aborted first. */
async function connected(
  endpoint: Endpoint,
  guard: ConnectionGuard,
  clock: Clock,
  signal: AbortSignal,
): Promise<Connection> {
  const plain = await connectedPlainly(endpoint, guard, signal);
  if (plain instanceof Connection) return plain;
  if (!mayBeLocked(endpoint, plain.code)) throw noConnection(endpoint, plain.code);
  const marked = await connectMarked(endpoint, clock, signal).catch((error: unknown) => {
    throw signal.aborted ? notAccepted(endpoint) : error;
  });
  if ("code" in marked) throw noConnection(endpoint, marked.code);
  return new Connection(endpoint, marked.socket, guard, marked.local);
}

/**
 * @returns the connection, else why there is none.
 * @throws UpstreamFailure where the signal is aborted first.
 */
function connectedPlainly(
  endpoint: Endpoint,
  guard: ConnectionGuard,
  signal: AbortSignal,
): Promise<Connection | { readonly code: string }> {
  return new Promise((resolve, reject) => {
    // With allowHalfOpen our end stays open when the other end closes, until we have checked who that was.
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
      // The constructor adds the listeners at once, so that none of the next events is missed.
      resolve(new Connection(endpoint, socket, guard));
      done();
    };
    const onError = (error: NodeJS.ErrnoException) => {
      socket.on("error", () => {});
      done();
      resolve({ code: error.code ?? error.name });
    };
    const giveUp = () => {
      socket.on("error", () => {});
      done();
      socket.destroy();
      reject(notAccepted(endpoint));
    };
    socket.once("connect", onConnect);
    socket.once("error", onError);
    if (signal.aborted) giveUp();
    else signal.addEventListener("abort", giveUp, { once: true });
  });
}

/** One connection, and the bytes received on it since the last request. */
export class Connection {
  readonly #endpoint: Endpoint;
  readonly #socket: Socket;
  readonly #guard: ConnectionGuard;
  /** The address of our end, read while the socket is open: a closed socket does not have it any more. */
  readonly #local: Endpoint | null;
  #unread: Buffer = Buffer.alloc(0);
  /** Set when the other end has closed its side or the whole connection, with the reason. */
  #ended: { readonly why: string } | null = null;
  #onChange: () => void = () => {};
  #stopIdling: () => void = () => {};

  /** @param local our end, where the socket does not say. */
  constructor(endpoint: Endpoint, socket: Socket, guard: ConnectionGuard, local: Endpoint | null = null) {
    this.#endpoint = endpoint;
    this.#socket = socket;
    this.#guard = guard;
    const { localAddress, localPort } = socket;
    this.#local =
      localAddress === undefined || localPort === undefined
        ? local
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

  /** Whether no byte was received since the last request. */
  get isUnanswered(): boolean {
    return this.#unread.length === 0;
  }

  verdict(): Verdict {
    if (this.#local === null) return { kind: "refused", why: "our end of the connection has no address" };
    return this.#guard.check(this.#local);
  }

  /** Sends a request on a connection whose verdict was `trusted`, and reads the answer. */
  async exchange(request: Buffer, signal: AbortSignal): Promise<RawAnswer> {
    this.#stopIdling();
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
          // The verdict is asked for again before anything of the answer is believed.
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
   * Waits until the connection receives something or ends, or until `also` settles.
   *
   * @throws the signal's reason where it is aborted first; UpstreamFailure where the connection has ended already.
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

  /** Keeps the connection for the next request, for `idleMs`. Anything received meanwhile closes it. */
  idle(clock: Clock, idleMs: number, onEnd: () => void): void {
    const end = () => {
      onEnd();
      this.destroy();
    };
    const cancel = clock.schedule(idleMs, end);
    this.#onChange = end;
    this.#stopIdling = () => {
      cancel();
      this.#onChange = () => {};
      this.#stopIdling = () => {};
    };
  }

  destroy(): void {
    this.#stopIdling();
    this.#onChange = () => {};
    this.#socket.destroy();
  }
}
