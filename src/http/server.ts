import type { Socket } from "bun";
import { ImdsProxyError } from "../errors.ts";
import { addressText, isLoopback, parseAddress, unmapped } from "../identity/address.ts";
import { type Caller, type Subject, shareOf } from "../identity/caller.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import type { SocketLookup } from "../identity/lookup.ts";
import { every, sleep, systemClock } from "../platform/clock.ts";
import { type LocalEnd, socketEnds } from "../platform/listening-socket.ts";
import type { SocketStore } from "../platform/socket-store.ts";
import { Connection, type ConnectionHost, encodedAnswers, type RequestHandler } from "./connection.ts";
import { Listener } from "./listener.ts";
import { LoopIterations, ReadBudget, RoundRobin } from "./scheduling.ts";

/**
 * The limits of connections under a limit of open files. A user may have 1,024, because 10 processes with 100 clients each
 * have been seen to start at once (aws-sdk-js #692), and 5,120 while no other user has that many: a job of 4,000 processes
 * that start at once has a connection of each open, and some that their clients have closed already. Callers who cannot be
 * identified get one answer each, and need few. 256 files are left for everything else: metrics, STS, the upstream, name
 * look-ups, logs.
 */
export function limitsFor(fileLimit: number): ConnectionLimits {
  const total = Math.max(64, fileLimit - 256);
  return { perUser: 1_024, shared: Math.min(4_096, Math.floor(total / 4)), unknown: 64, total };
}
const SWEEP_MS = 1_000;
const BACKLOG = 4_096;

/** How many connections there may be at once. */
export interface ConnectionLimits {
  /** Of each user, whatever the others have. */
  readonly perUser: number;
  /** Of those users together who have more than `perUser`: what is over it. */
  readonly shared: number;
  /** Of callers who could not be identified, from one address; the node's loopback addresses count as one. */
  readonly unknown: number;
  readonly total: number;
}

export interface ServerOptions {
  readonly handler: RequestHandler;
  /** The value of the header Server in each answer. */
  readonly serverName: string;
  readonly lookup: Pick<SocketLookup, "identify">;
  /** Milliseconds of a monotonic clock. */
  readonly monotonicMs: () => number;
  readonly limits: ConnectionLimits;
  /**
   * Lets another proxy of the same account listen at the same endpoints (SO_REUSEPORT), so that one can take over from
   * the other without a gap. The kernel lets nobody but the same uid in (net/ipv4/inet_connection_sock.c).
   */
  readonly sharePort: boolean;
  /** Where listening sockets are kept over a restart. */
  readonly store: SocketStore;
  /** The subject whose limits a uid counts towards; see identity/shares.ts. */
  readonly shareOfUid: (uid: number) => Subject;
  /** Whether a redirected connection from this address, which has no socket on this node, comes from a container to serve. */
  readonly isContainer: (address: Uint8Array) => boolean;
  /** Called when a caller cannot be identified, with the reason. */
  readonly onUnidentified: (why: string) => void;
  /** Called when a request or a connection is turned away before the handler sees it. */
  readonly onTurnedAway?: (event: TurnedAway) => void;
  /** Called when connections cannot be accepted for a moment, with the error's code (`EMFILE`, …). */
  readonly onAcceptFailure?: (code: string) => void;
}

/**
 * A request or a connection that was turned away before the handler saw it.
 * - `busy`: a request of a user of whom the maximum number of requests is under way whose connections are closed.
 * - `malformed`: a request whose head is malformed or too long.
 * - `crowded`: a connection beyond the limit, where each of the open ones has a request under way.
 */
export interface TurnedAway {
  readonly kind: "busy" | "malformed" | "crowded";
  readonly caller: Caller;
  /** The status that was answered, or null where the connection was closed without an answer. */
  readonly status: number | null;
}

/** Bun's sockets have their descriptor, which its types do not tell. */
interface DescribedSocket {
  readonly fd: number;
}

/** Open connections, and the users who have any; for metrics. */
export interface ServerCounts {
  readonly connections: number;
  readonly users: number;
}

/**
 * The HTTP server. It identifies the caller when it accepts a connection, before it reads a byte. Requests are handled in
 * round-robin order over users, and each limit is that of a user.
 */
export class Server {
  readonly #options: ServerOptions;
  readonly #queues: RoundRobin;
  readonly #readBudget: ReadBudget;
  readonly #connections = new Map<Subject, Set<Connection>>();
  /** Requests that are being handled and whose connection is closed, by user. */
  readonly #abandoned = new Map<Subject, number>();
  readonly #listeners: Listener<Connection | undefined>[] = [];
  readonly #host: ConnectionHost;
  readonly #stopSweeping: () => void;
  #open = 0;
  /** Connections over each user's `perUser`. */
  #overPerUser = 0;
  #draining = false;

  constructor(options: ServerOptions) {
    this.#options = options;
    const iterations = new LoopIterations();
    this.#queues = new RoundRobin(iterations, options.monotonicMs);
    this.#readBudget = new ReadBudget(iterations);
    this.#host = {
      handler: options.handler,
      serverName: options.serverName,
      roughMs: () => this.#queues.roughMs(),
      enqueue: (connection) => this.#queues.enqueue(connection.user, connection),
      spendRead: (connection) => this.#readBudget.spend(connection.user, connection),
      isBusy: ({ user }) => (this.#abandoned.get(user) ?? 0) >= options.limits.perUser,
      requestAbandoned: ({ user }) => this.#countAbandoned(user, 1),
      abandonedRequestEnded: ({ user }) => this.#countAbandoned(user, -1),
      turnedAway: ({ caller }, kind, status) => this.#turnedAway(caller, kind, status),
      closed: (connection) => this.#forget(connection),
    };
    this.#stopSweeping = every(SWEEP_MS, () => this.#sweep());
  }

  /**
   * Listens at one more endpoint.
   *
   * @throws ImdsProxyError `port-taken`, `permission` or `missing` (no such address).
   */
  listen(endpoint: Endpoint): void {
    const where = endpointText(endpoint);
    const address = parseAddress(endpoint.address);
    if (address === null)
      throw new ImdsProxyError(
        "missing",
        `cannot listen on ${where}: no IP address`,
        "such as 127.0.0.1:254",
      );
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

  /** A listener on the socket that systemd kept of an earlier process; null where there is none for this endpoint. */
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
    const isSpecific = address.some((byte) => byte !== 0);
    const bound = isSpecific ? { localAddress: address, localPort: port } : null;
    return new Listener<Connection | undefined>({
      address,
      port,
      backlog: BACKLOG,
      sharePort: this.#options.sharePort,
      inherited,
      monotonicMs: this.#options.monotonicMs,
      onFailure: (code) => this.#options.onAcceptFailure?.(code),
      handlers: {
        open: (socket) => this.#accept(socket, bound),
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

  /** Stops accepting, lets the requests under way end, and resolves when all connections are closed or `limitMs` are over. */
  async drain(limitMs: number): Promise<void> {
    this.#draining = true;
    for (const listener of this.#listeners) listener.close();
    const endMs = this.#options.monotonicMs() + limitMs;
    for (const connections of this.#connections.values()) for (const one of connections) one.finish();
    while (this.#open > 0 && this.#options.monotonicMs() < endMs) await sleep(10);
    this.#stopSweeping();
    for (const connections of this.#connections.values()) for (const one of connections) one.terminate();
  }

  /** @param bound see {@link socketEnds}. */
  #accept(socket: Socket<Connection | undefined>, bound: LocalEnd | null): void {
    // The kernel has no addresses of a connection that its client has reset before it was accepted.
    const ends = socketEnds((socket as unknown as DescribedSocket).fd, bound);
    if (ends === null) {
      socket.terminate();
      return;
    }
    const found = this.#options.lookup.identify({
      ...ends,
      localAddress: unmapped(ends.localAddress),
      peerAddress: unmapped(ends.peerAddress),
    });
    let caller: Caller = { kind: "unknown" };
    if (found.kind === "owner") caller = { ...found, share: this.#options.shareOfUid(found.owner.uid) };
    else if (found.remote !== undefined && this.#options.isContainer(found.remote)) {
      caller = { kind: "container", address: addressText(found.remote) };
    } else this.#options.onUnidentified(found.why);
    const user = caller.kind === "unknown" ? unknownFrom(unmapped(ends.peerAddress)) : shareOf(caller);
    const connections = this.#connections.get(user) ?? new Set<Connection>();
    if (!this.#makeRoom(caller, connections)) {
      this.#turnedAway(caller, "crowded", null);
      socket.terminate();
      return;
    }
    const connection = new Connection(socket, caller, user, this.#host);
    connections.add(connection);
    this.#connections.set(user, connections);
    this.#open++;
    if (this.#isOverPerUser(caller, connections)) this.#overPerUser++;
    socket.data = connection;
    if (this.#draining) connection.finish();
  }

  #forget(connection: Connection): void {
    this.#open--;
    const connections = this.#connections.get(connection.user);
    if (connections === undefined) return;
    if (this.#isOverPerUser(connection.caller, connections)) this.#overPerUser--;
    connections.delete(connection);
    if (connections.size === 0) this.#connections.delete(connection.user);
  }

  #turnedAway(caller: Caller, kind: TurnedAway["kind"], status: number | null): void {
    this.#options.onTurnedAway?.({ kind, caller, status });
  }

  #countAbandoned(user: Subject, change: 1 | -1): void {
    const count = (this.#abandoned.get(user) ?? 0) + change;
    if (count > 0) this.#abandoned.set(user, count);
    else this.#abandoned.delete(user);
  }

  /** Whether the last of a user's connections counts towards the limit `shared`. */
  #isOverPerUser({ kind }: Caller, connections: Set<Connection>): boolean {
    return kind !== "unknown" && connections.size > this.#options.limits.perUser;
  }

  /**
   * Makes room for one more connection of a user. Where a limit is reached, one is closed of the user who has most: so whoever
   * is under `perUser` loses none to those who are over it.
   */
  #makeRoom({ kind }: Caller, own: Set<Connection>): boolean {
    const { perUser, shared, unknown, total } = this.#options.limits;
    if (kind === "unknown") {
      if (own.size >= unknown) return closeOne(own);
    } else if (own.size >= perUser && this.#overPerUser >= shared) {
      return closeOne(this.#largest(own)) || closeOne(own);
    }
    return this.#open < total || closeOne(this.#largest(own));
  }

  /** The connections of the user who has most of them: this one's, where nobody has more. */
  #largest(own: Set<Connection>): Set<Connection> {
    let largest = own;
    for (const connections of this.#connections.values())
      if (connections.size > largest.size) largest = connections;
    return largest;
  }

  #sweep(): void {
    encodedAnswers.forgetOld(systemClock.now());
    const now = this.#options.monotonicMs();
    for (const connections of this.#connections.values()) for (const one of connections) one.expire(now);
  }
}

/**
 * Whose limits a connection counts towards that could not be identified. A user of this node can make as many as they like, by closing
 * each before it is looked up. They come from addresses of this node, and take no place of a scraper of the metrics on another machine.
 */
function unknownFrom(address: Uint8Array): Subject {
  return isLoopback(address) ? "unknown, by loopback" : `unknown, from ${addressText(address)}`;
}

/** Closes the connection that comes first in {@link Connection.evictionOrder}, and of those the oldest. @returns false where there is none. */
function closeOne(connections: Set<Connection>): boolean {
  let found: Connection | null = null;
  let foundOrder = Number.POSITIVE_INFINITY;
  for (const connection of connections) {
    const order = connection.evictionOrder;
    if (order === null || order >= foundOrder) continue;
    found = connection;
    foundOrder = order;
    if (order === 0) break;
  }
  found?.terminate();
  return found !== null;
}
