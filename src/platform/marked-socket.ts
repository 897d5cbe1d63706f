import { ptr } from "bun:ffi";
import {
  AF_INET,
  AF_INET6,
  EACCES,
  EINPROGRESS,
  errno,
  errnoName,
  inetName,
  libc,
  POLLOUT,
  pollOne,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
} from "./socket-calls.ts";

/**
 * TCP sockets with a firewall mark. The kernel routes a connection in connect(2), so the mark must be set before. node:net cannot
 * do that. Addresses are in network byte order: 4 bytes for IPv4, 16 for IPv6.
 */

const SO_ERROR = 4;
const SO_MARK = 36;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;

const familyOf = (address: Uint8Array): number => (address.length === 4 ? AF_INET : AF_INET6);

const connect = (descriptor: number, address: Uint8Array, port: number): boolean => {
  const name = inetName(address, port);
  return libc.connect(descriptor, ptr(name), name.length) === 0;
};

const setMark = (descriptor: number, mark: number): boolean =>
  libc.setsockopt(descriptor, SOL_SOCKET, SO_MARK, ptr(Uint32Array.of(mark)), 4) === 0;

/** How far a connection is. */
export type Progress =
  | { readonly kind: "connecting" }
  | { readonly kind: "connected"; readonly address: Uint8Array; readonly port: number }
  | { readonly kind: "failed"; readonly code: string };

/** One connection, from connect(2) until it is established. */
export class MarkedSocket {
  readonly #descriptor: number;
  /** The length of an address in bytes: 4 or 16. */
  readonly #length: number;
  #failure: string | null = null;

  /**
   * Begins to connect. {@link progress} reports a failure.
   *
   * @param mark SO_MARK; needs CAP_NET_ADMIN.
   */
  constructor(address: Uint8Array, port: number, mark: number) {
    this.#length = address.length;
    this.#descriptor = libc.socket(familyOf(address), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (this.#descriptor < 0) {
      this.#failure = errnoName(errno());
      return;
    }
    libc.setsockopt(this.#descriptor, IPPROTO_TCP, TCP_NODELAY, ptr(Int32Array.of(1)), 4);
    if (!setMark(this.#descriptor, mark)) {
      this.#failure = errnoName(errno());
      return;
    }
    if (connect(this.#descriptor, address, port)) return;
    const error = errno();
    if (error !== EINPROGRESS) this.#failure = errnoName(error);
  }

  /** The state of the connection, without waiting. `connected` has the address and port of our end. */
  progress(): Progress {
    if (this.#failure !== null) return { kind: "failed", code: this.#failure };
    if (pollOne(this.#descriptor, POLLOUT, 0) === 0) return { kind: "connecting" };
    const error = new Int32Array(1);
    libc.getsockopt(this.#descriptor, SOL_SOCKET, SO_ERROR, ptr(error), ptr(Uint32Array.of(4)));
    if (error[0] !== 0) {
      this.#failure = errnoName(error[0] ?? 0);
      return { kind: "failed", code: this.#failure };
    }
    const name = inetName(new Uint8Array(this.#length), 0);
    libc.getsockname(this.#descriptor, ptr(name), ptr(Uint32Array.of(name.length)));
    const at = this.#length === 4 ? 4 : 8;
    return {
      kind: "connected",
      address: name.slice(at, at + this.#length),
      port: new DataView(name.buffer).getUint16(2, false),
    };
  }

  /** The socket's descriptor. Whoever takes it closes it. */
  get descriptor(): number {
    return this.#descriptor;
  }

  close(): void {
    if (this.#descriptor >= 0) libc.close(this.#descriptor);
  }
}

/**
 * Whether a route or rule of type `prohibit` keeps this process from an address (EACCES). It calls connect(2) on a UDP socket,
 * which looks up the route and sends nothing (udp(7)).
 *
 * @param mark SO_MARK of the socket, which needs CAP_NET_ADMIN; null for none.
 */
export function isWayForbidden(address: Uint8Array, port: number, mark: number | null): boolean {
  const descriptor = libc.socket(familyOf(address), SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return false;
  try {
    if (mark !== null && !setMark(descriptor, mark)) return true;
    return !connect(descriptor, address, port) && errno() === EACCES;
  } finally {
    libc.close(descriptor);
  }
}
