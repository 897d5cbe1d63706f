import type { Socket } from "bun";
import { ImdsProxyError } from "../errors.ts";
import { addressText, parseAddress } from "../identity/address.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import type { SocketLookup } from "../identity/lookup.ts";
import type { SocketStore } from "../platform/socket-store.ts";
import { type Answer, encodeAnswer, errorPage } from "./answer.ts";
import { type Caller, shareOf } from "./handler.ts";
import { Listener } from "./listener.ts";
import { EMPTY_CHUNKS, isBad, MAX_HEAD_BYTES, parseRequest, type Request } from "./request.ts";
import { Iterations, type Reader, Reads, Turns, type Work } from "./schedule.ts";
import type { Subject } from "./tokens.ts";

/**
 * The HTTP server, on Bun.listen: the caller is identified when the connection is accepted, before a byte is read, and
 * every limit is that of a uid.
 */

/**
 * 1,024 of one user: a start of 10 processes with 100 clients each is a real thing (aws-sdk-js #692). Those that could not
 * be identified get one answer and go. 256 files are for everything else: metrics, STS, the upstream, getent, logs.
 */
export const limitsFor = (fileLimit: number): ConnectionLimits => ({
  perUser: 1_024,
  unknown: 64,
  total: Math.max(64, fileLimit - 256),
});
/** Milliseconds for a whole head, from its first byte; and without a request, for a connection that is kept. */
const HEAD_MS = 5_000;
const IDLE_MS = 75_000;
/** Milliseconds for a client to take an answer, or to close after our last one. */
const STALL_MS = 10_000;
/** Milliseconds that a connection has for its request once we are about to stop. */
const FIRST_REQUEST_MS = 1_000;
const SWEEP_MS = 1_000;
/** Bytes that a client may still send after our last answer; who goes on reads no answers. */
const MAX_IGNORED = 262_144;
const BACKLOG = 4_096;
const UNKNOWN_USER = -1;
const HEAD_END = Buffer.from("\r\n\r\n");
const NOTHING = Buffer.alloc(0);

/** How many connections there may be at once. */
export interface ConnectionLimits {
  readonly perUser: number;
  /** Of callers who could not be identified, all together. */
  readonly unknown: number;
  readonly total: number;
}

/** Answers requests. It must not throw, nor reject; the handler of the metadata service and that of metrics do not. */
export interface RequestHandler {
  handle(request: Request, caller: Caller): Answer | Promise<Answer>;
}

export interface ServerOptions {
  readonly handler: RequestHandler;
  readonly lookup: SocketLookup;
  /** Milliseconds of a clock that nobody sets; for time limits alone. */
  readonly monotonicMs: () => number;
  readonly limits: ConnectionLimits;
  /**
   * Lets another proxy of the same account listen at the same endpoints (SO_REUSEPORT), so that one can take over from
   * the other without a gap. The kernel lets nobody but the same uid in (net/ipv4/inet_connection_sock.c).
   */
  readonly sharePort: boolean;
  /** Where listening sockets are kept over a restart. */
  readonly store: SocketStore;
  /** Under which name the share of a uid is kept; see identity/shares.ts. */
  readonly shareOfUid: (uid: number) => Subject;
  /** Whether a redirected connection from this address, of which no socket is on this node, is a container to serve. */
  readonly isContainer: (address: Uint8Array) => boolean;
  /** A caller who could not be identified, and why. */
  readonly onUnidentified: (why: string) => void;
  /** A request or a connection that was turned away before the handler saw it. Default: nobody is told. */
  readonly onTurnedAway?: (event: TurnedAway) => void;
  /** Connections could not be accepted for a moment, and why (`EMFILE`, …). Default: nobody is told. */
  readonly onAcceptFailure?: (code: string) => void;
}

/**
 * What was turned away before the handler saw it.
 * - `busy`: a request, because as many of the user's wait already as may.
 * - `malformed`: a request whose head is not well-formed or too long.
 * - `crowded`: a connection, because there are as many as there may be and none of them is idle.
 */
export interface TurnedAway {
  readonly kind: "busy" | "malformed" | "crowded";
  /** A uid, what stands for a user's subordinate uids, a container's address; null where nobody could be identified. */
  readonly subject: Subject | null;
  /** The status that was answered, or null where the connection was closed without an answer. */
  readonly status: number | null;
}

/** How the server stands, for metrics. */
export interface ServerCounts {
  readonly connections: number;
  readonly users: number;
}

/** Accepts, identifies, and lets connections speak in turns. */
export class Server {
  readonly #options: ServerOptions;
  readonly #turns: Turns;
  readonly #reads: Reads;
  readonly #connections = new Map<Subject, Set<Connection>>();
  /** Requests under way that wait for something, by user; also those whose connection is gone. */
  readonly #underWay = new Map<Subject, number>();
  readonly #listeners: Listener<Connection | undefined>[] = [];
  readonly #sweeper: ReturnType<typeof setInterval>;
  #open = 0;
  #draining = false;

  constructor(options: ServerOptions) {
    this.#options = options;
    const iterations = new Iterations();
    this.#turns = new Turns(iterations, options.monotonicMs);
    this.#reads = new Reads(iterations);
    this.#sweeper = setInterval(() => this.#sweep(), SWEEP_MS);
    this.#sweeper.unref();
  }

  /**
   * Listens at one more endpoint.
   *
   * @throws ImdsProxyError `port-taken`, `permission` or `missing` (no such address).
   */
  listen(endpoint: Endpoint): void {
    const where = endpointText(endpoint);
    const address = parseAddress(endpoint.address);
    if (address === null) throw new ImdsProxyError("missing", `cannot listen on ${where}: no IP address`);
    try {
      const name = `listen-${addressText(address).replaceAll(":", "_")}-${endpoint.port}`;
      const listener =
        this.#adopted(name, address, endpoint.port) ?? this.#listener(address, endpoint.port, null);
      this.#options.store.keep(name, listener.handle);
      this.#listeners.push(listener);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === "EADDRINUSE") {
        throw new ImdsProxyError(
          "port-taken",
          `cannot listen on ${where}: the port is taken`,
          `see who has it: ss -ltnp 'sport = :${endpoint.port}'`,
        );
      }
      if (code === "EACCES" || code === "EPERM") {
        throw new ImdsProxyError(
          "permission",
          `cannot listen on ${where}: not permitted`,
          "run it as root, or with the capability CAP_NET_BIND_SERVICE",
        );
      }
      throw new ImdsProxyError(
        "missing",
        `cannot listen on ${where}: ${code ?? "unknown error"}`,
        "the address must be one of this node",
      );
    }
  }

  /** What systemd kept of an earlier process; null where it has nothing that listens there. */
  #adopted(name: string, address: Uint8Array, port: number): Listener<Connection | undefined> | null {
    const inherited = this.#options.store.take(name);
    if (inherited === null) return null;
    try {
      return this.#listener(address, port, inherited);
    } catch {
      this.#options.store.forget(name);
      return null;
    }
  }

  #listener(address: Uint8Array, port: number, inherited: number | null): Listener<Connection | undefined> {
    return new Listener<Connection | undefined>({
      address,
      port,
      backlog: BACKLOG,
      sharePort: this.#options.sharePort,
      inherited,
      monotonicMs: this.#options.monotonicMs,
      onFailure: (code) => this.#options.onAcceptFailure?.(code),
      handlers: {
        open: (socket) => this.#accept(socket),
        data: (socket, bytes) => socket.data?.received(bytes),
        drain: (socket) => socket.data?.drained(),
        end: (socket) => socket.data?.ended(),
        close: (socket) => socket.data?.closed(),
        error: (socket) => socket.data?.terminate(),
      },
    });
  }

  /** Whether connections are accepted at each endpoint. */
  get accepting(): boolean {
    return this.#listeners.every(({ accepting }) => accepting);
  }

  counts(): ServerCounts {
    return { connections: this.#open, users: this.#connections.size };
  }

  /** Accepts nothing more, lets requests that are under way end, and resolves when all connections are closed. */
  async drain(limitMs: number): Promise<void> {
    this.#draining = true;
    for (const listener of this.#listeners) listener.close();
    const endMs = this.#options.monotonicMs() + limitMs;
    for (const connections of this.#connections.values()) for (const one of connections) one.finish();
    while (this.#open > 0 && this.#options.monotonicMs() < endMs) await Bun.sleep(10);
    clearInterval(this.#sweeper);
    for (const connections of this.#connections.values()) for (const one of connections) one.terminate();
  }

  #accept(socket: Socket<Connection | undefined>): void {
    // Of a connection that its client reset before we came to it, the kernel has no addresses any more.
    const localAddress = parseAddress(socket.localAddress ?? "");
    const peerAddress = parseAddress(socket.remoteAddress ?? "");
    if (localAddress === null || peerAddress === null) {
      socket.terminate();
      return;
    }
    const found = this.#options.lookup.identify({
      localAddress,
      localPort: socket.localPort,
      peerAddress,
      peerPort: socket.remotePort,
    });
    let caller: Caller = { kind: "unknown" };
    if (found.kind === "owner") caller = { ...found, share: this.#options.shareOfUid(found.owner.uid) };
    else if (found.remote !== undefined && this.#options.isContainer(found.remote)) {
      caller = { kind: "container", address: addressText(found.remote) };
    } else this.#options.onUnidentified(found.why);
    const user = caller.kind === "unknown" ? UNKNOWN_USER : shareOf(caller);
    const connections = this.#connections.get(user) ?? new Set<Connection>();
    const turnedAway = (kind: TurnedAway["kind"], status: number | null) =>
      this.#options.onTurnedAway?.({ kind, subject: user === UNKNOWN_USER ? null : user, status });
    if (!this.#makeRoom(user, connections)) {
      turnedAway("crowded", null);
      socket.terminate();
      return;
    }
    const connection = new Connection(socket, caller, {
      handler: this.#options.handler,
      monotonicMs: this.#options.monotonicMs,
      enqueue: (work) => this.#turns.add(user, work),
      read: (reader) => this.#reads.take(user, reader),
      busy: () => (this.#underWay.get(user) ?? 0) >= this.#options.limits.perUser,
      waits: (count) => this.#waits(user, count),
      draining: () => this.#draining,
      turnedAway,
      onClose: () => {
        this.#open--;
        connections.delete(connection);
        if (connections.size === 0) this.#connections.delete(user);
      },
    });
    connections.add(connection);
    this.#connections.set(user, connections);
    this.#open++;
    socket.data = connection;
  }

  #waits(user: Subject, count: 1 | -1): void {
    const left = (this.#underWay.get(user) ?? 0) + count;
    if (left > 0) this.#underWay.set(user, left);
    else this.#underWay.delete(user);
  }

  /** Makes room for one more connection of a user, at the cost of their own that has been idle the longest. */
  #makeRoom(user: Subject, own: Set<Connection>): boolean {
    const { perUser, unknown, total } = this.#options.limits;
    if (own.size >= (user === UNKNOWN_USER ? unknown : perUser)) return closeIdle(own);
    if (this.#open < total) return true;
    let crowd = own;
    for (const connections of this.#connections.values())
      if (connections.size > crowd.size) crowd = connections;
    return closeIdle(crowd);
  }

  #sweep(): void {
    const now = this.#options.monotonicMs();
    for (const connections of this.#connections.values()) for (const one of connections) one.expire(now);
  }
}

/** Closes the first connection that has no request under way; they stand in the order in which they were accepted. */
function closeIdle(connections: Set<Connection>): boolean {
  for (const connection of connections) {
    if (!connection.idle) continue;
    connection.terminate();
    return true;
  }
  return false;
}

interface ConnectionContext {
  readonly handler: RequestHandler;
  readonly monotonicMs: () => number;
  readonly enqueue: (work: Work) => void;
  /** Counts a read; false where the reader is to rest until it is woken. */
  readonly read: (reader: Reader) => boolean;
  /** Whether so many requests of the user's wait for something that no more are begun. */
  readonly busy: () => boolean;
  /** Counts a request that waits for something, and that it does no longer. */
  readonly waits: (count: 1 | -1) => void;
  readonly draining: () => boolean;
  /** Told of a request that the handler never sees, and of the status that it got. */
  readonly turnedAway: (kind: "busy" | "malformed", status: number) => void;
  readonly onClose: () => void;
}

/** One connection: bytes in, one request after the other, bytes out; never more in memory than the limits above. */
class Connection implements Work, Reader {
  readonly #socket: Socket<Connection | undefined>;
  readonly #caller: Caller;
  readonly #context: ConnectionContext;
  #buffered: Buffer = NOTHING;
  #unsent: Buffer = NOTHING;
  /** Bytes that have to be here before the request is looked at: its head, and the empty chunks that it announced. */
  #needed = 0;
  /** Bytes of the last request's body that are still to be read over. */
  #bodyLeft = 0;
  #state: "reading" | "queued" | "handling" | "writing" | "closing" | "closed" = "reading";
  #closeAfterWrite = false;
  #answered = false;
  #inputEnded = false;
  /** Why it may not be read from: the user's others are, or what was sent ahead is not needed yet. */
  #resting = false;
  #ahead = false;
  /** Whether the socket knows. */
  #paused = false;
  /** Bytes that came after our last answer. */
  #ignored = 0;
  #deadlineMs: number;

  constructor(socket: Socket<Connection | undefined>, caller: Caller, context: ConnectionContext) {
    this.#socket = socket;
    this.#caller = caller;
    this.#context = context;
    this.#deadlineMs = context.monotonicMs() + HEAD_MS;
  }

  /** Whether nothing is under way for the caller. */
  get idle(): boolean {
    return this.#state === "reading" || this.#state === "closing";
  }

  received(bytes: Buffer): void {
    if (this.#state === "closed") return;
    if (!this.#resting && !this.#context.read(this)) {
      this.#resting = true;
      this.#pause();
    }
    if (this.#state === "closing") {
      this.#ignored += bytes.length;
      if (this.#ignored > MAX_IGNORED) this.terminate();
      return;
    }
    let fresh = bytes;
    if (this.#bodyLeft > 0) {
      const skipped = Math.min(this.#bodyLeft, fresh.length);
      this.#bodyLeft -= skipped;
      fresh = fresh.subarray(skipped);
    }
    if (fresh.length === 0) return;
    if (this.#buffered.length === 0 && this.#state === "reading") {
      this.#deadlineMs = this.#context.monotonicMs() + HEAD_MS;
    }
    // What Bun hands over is its own to use again, so what is kept is copied.
    this.#buffered =
      this.#buffered.length === 0 ? Buffer.from(fresh) : Buffer.concat([this.#buffered, fresh]);
    // One request at a time: what is sent ahead waits, at last with the client.
    if (this.#state !== "reading") {
      this.#ahead = true;
      this.#pause();
    }
    this.#proceed();
  }

  /** Takes one request out of what was received, and answers it. */
  step(): boolean {
    if (this.#state !== "queued") return false;
    this.#state = "reading";
    const end = this.#buffered.indexOf(HEAD_END);
    if (end < 0 || end > MAX_HEAD_BYTES) {
      this.#refuse(400);
      return false;
    }
    const parsed = parseRequest(this.#buffered.toString("latin1", 0, end));
    let rest = this.#buffered.subarray(end + HEAD_END.length);
    if (isBad(parsed)) {
      this.#refuse(parsed.status);
      return false;
    }
    if (parsed.emptyChunks) {
      const body = rest.toString("latin1", 0, EMPTY_CHUNKS.length);
      if (!EMPTY_CHUNKS.startsWith(body)) {
        this.#refuse(400);
        return false;
      }
      if (body.length < EMPTY_CHUNKS.length) {
        this.#needed = end + HEAD_END.length + EMPTY_CHUNKS.length;
        return this.#ready();
      }
      rest = rest.subarray(EMPTY_CHUNKS.length);
    }
    this.#needed = 0;
    const skipped = Math.min(parsed.bodyLength, rest.length);
    this.#bodyLeft = parsed.bodyLength - skipped;
    rest = rest.subarray(skipped);
    this.#buffered = rest.length === 0 ? NOTHING : rest;
    this.#state = "handling";
    // A request outlives its connection: without this, whoever resets theirs and comes again has no limit.
    const busy = this.#context.busy();
    if (busy) this.#context.turnedAway("busy", 503);
    const answer = busy ? errorPage(503) : this.#context.handler.handle(parsed, this.#caller);
    if (answer instanceof Promise) {
      this.#context.waits(1);
      void answer.then((found) => {
        this.#context.waits(-1);
        this.#send(parsed, found);
      });
    } else this.#send(parsed, answer, false);
    // Back in line at once where the next request is here already, so that `step` says so and is asked again.
    return this.#ready();
  }

  drained(): void {
    if (this.#unsent.length > 0) this.#write(this.#unsent);
    else if (this.#state === "writing") {
      this.#written();
      this.#proceed();
    }
  }

  /** The client has sent all that it will send. */
  ended(): void {
    this.#inputEnded = true;
    // What is there is no whole request, and never will be.
    if (this.#state === "reading") this.#end();
    else if (this.#state === "closing") this.terminate();
  }

  closed(): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#buffered = NOTHING;
    this.#unsent = NOTHING;
    this.#context.onClose();
  }

  /**
   * Ends the connection once nothing is under way. One that has not had an answer yet, or of whose next request a part
   * is here, has a moment to complete it: its client would take a closed connection for a failure.
   */
  finish(): void {
    if (this.#state === "reading" && this.#answered && this.#buffered.length === 0) this.#end();
    else this.#closeAfterWrite = true;
    if (this.#state === "reading") {
      this.#deadlineMs = Math.min(this.#deadlineMs, this.#context.monotonicMs() + FIRST_REQUEST_MS);
    }
  }

  terminate(): void {
    if (this.#state === "closed") return;
    this.#socket.terminate();
    this.closed();
  }

  /** Ends a connection whose time is over. */
  expire(now: number): void {
    if (this.#state === "queued" || this.#state === "handling" || now < this.#deadlineMs) return;
    this.terminate();
  }

  wake(): void {
    this.#resting = false;
    this.#resume();
  }

  #proceed(): void {
    if (this.#ready()) this.#context.enqueue(this);
  }

  /** Whether a request is ready; if so, it is marked as being in line. */
  #ready(): boolean {
    if (this.#state !== "reading") return false;
    const whole = this.#buffered.indexOf(HEAD_END) >= 0 && this.#buffered.length >= this.#needed;
    if (!whole && (this.#needed > 0 || this.#buffered.length <= MAX_HEAD_BYTES)) {
      this.#ahead = false;
      this.#resume();
      if (this.#inputEnded) this.#end();
      return false;
    }
    this.#state = "queued";
    return true;
  }

  #refuse(status: 400 | 413 | 417): void {
    this.#context.turnedAway("malformed", status);
    this.#buffered = NOTHING;
    const answer = { ...errorPage(status), close: true };
    const bytes = encodeAnswer(answer, { head: false, keepAlive: false, nowMs: Date.now() });
    this.#closeAfterWrite = true;
    this.#state = "handling";
    this.#write(bytes);
  }

  #send(request: Request, answer: Answer, proceed = true): void {
    if (this.#state !== "handling") return;
    const keepAlive =
      request.keepAlive &&
      answer.close !== true &&
      !this.#context.draining() &&
      !(this.#inputEnded && this.#buffered.length === 0);
    if (!keepAlive) this.#closeAfterWrite = true;
    this.#answered = true;
    this.#write(encodeAnswer(answer, { head: request.method === "HEAD", keepAlive, nowMs: Date.now() }));
    if (proceed) this.#proceed();
  }

  #write(bytes: Buffer): void {
    const sent = this.#socket.write(bytes);
    if (sent < 0) {
      this.terminate();
      return;
    }
    if (sent < bytes.length) {
      if (this.#state !== "writing") this.#deadlineMs = this.#context.monotonicMs() + STALL_MS;
      this.#state = "writing";
      this.#unsent = bytes.subarray(sent);
      return;
    }
    const waited = this.#state === "writing";
    this.#unsent = NOTHING;
    this.#written();
    if (waited) this.#proceed();
  }

  #written(): void {
    if (this.#closeAfterWrite) {
      this.#end();
      return;
    }
    this.#state = "reading";
    this.#deadlineMs = this.#context.monotonicMs() + (this.#buffered.length > 0 ? HEAD_MS : IDLE_MS);
    if (this.#inputEnded && this.#buffered.length === 0) this.#end();
  }

  #pause(): void {
    if (this.#paused || this.#state === "closed") return;
    this.#paused = true;
    this.#socket.pause();
  }

  #resume(): void {
    if (!this.#paused || this.#resting || this.#ahead || this.#state === "closed") return;
    this.#paused = false;
    this.#socket.resume();
  }

  /** Says that we are done, and waits a while for the client to close: a reset could overtake our last answer. */
  #end(): void {
    if (this.#state === "closed") return;
    this.#state = "closing";
    this.#buffered = NOTHING;
    this.#deadlineMs = this.#context.monotonicMs() + STALL_MS;
    this.#ahead = false;
    this.#resume();
    if (this.#inputEnded) this.#socket.end();
    else this.#socket.shutdown();
  }
}
