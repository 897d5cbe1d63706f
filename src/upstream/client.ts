import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import type { RawAnswer } from "./answer.ts";
import { type Connection, openConnection, UpstreamFailure, type UpstreamGuard } from "./connection.ts";

const UNGUARDED: UpstreamGuard = { open: () => ({ check: () => ({ kind: "trusted" }) }) };

/** The deadline of one request in milliseconds, the wait for a connection included. */
export const TIMEOUT_MS = 2_000;
/** Connections in use at one time, and milliseconds that an idle one is kept. */
const MAX_CONNECTIONS = 8;
const IDLE_MS = 30_000;
const USER_AGENT = "imdsproxy";

/** Told of each request: the status of its answer, null where none came, and how many milliseconds it took. */
export type OnUpstreamRequest = (status: number | null, tookMs: number) => void;

export interface UpstreamRequest {
  readonly method: "GET" | "PUT";
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * The HTTP/1.1 client for the metadata service upstream, with a pool of connections. It is our own, because it has to know
 * who is at the other end before it sends the first byte: an impostor must see neither a token nor a path.
 *
 * It uses node:net and not fetch, because Bun's fetch sends plain HTTP through the proxy that HTTP_PROXY names, and no proxy
 * may see the instance role's credentials.
 */
export class UpstreamClient {
  readonly #guard: UpstreamGuard;
  readonly #clock: Clock;
  readonly #onRequest: OnUpstreamRequest;
  readonly #idle = new Set<Connection>();
  /** Requests that wait until fewer connections are in use, in their order. */
  readonly #waiting: (() => void)[] = [];
  #busy = 0;
  #closed = false;

  constructor(options: {
    guard?: UpstreamGuard | undefined;
    clock: Clock;
    onRequest?: OnUpstreamRequest | undefined;
  }) {
    this.#guard = options.guard ?? UNGUARDED;
    this.#clock = options.clock;
    this.#onRequest = options.onRequest ?? (() => {});
  }

  /**
   * Sends one request and reads its answer.
   *
   * @throws UpstreamFailure
   */
  async send(endpoint: Endpoint, request: UpstreamRequest): Promise<RawAnswer> {
    const deadline = new AbortController();
    const cancel = this.#clock.schedule(TIMEOUT_MS, () =>
      deadline.abort(new UpstreamFailure(`no answer from ${endpointText(endpoint)} within ${TIMEOUT_MS} ms`)),
    );
    const startedMs = this.#clock.now();
    let status: number | null = null;
    try {
      await this.#acquire(deadline.signal);
      try {
        const answer = await this.#exchange(endpoint, encodeRequest(endpoint, request), deadline.signal);
        status = answer.status;
        return answer;
      } finally {
        this.#busy--;
        this.#waiting.shift()?.();
      }
    } finally {
      cancel();
      // By the wall clock, which may have been set meanwhile.
      this.#onRequest(status, Math.max(0, this.#clock.now() - startedMs));
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
        // The service closed an idle connection just as we used it. That says nothing about the request: it is sent anew.
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

  /** An idle connection whose other end is still open and trusted; null where there is none. */
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
      connection.idle(this.#clock, IDLE_MS, () => this.#idle.delete(connection));
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
