import { ptr } from "bun:ffi";
import {
  AF_INET,
  AF_INET6,
  EBADFD,
  errno,
  errnoName,
  inetName,
  libc,
  POLLIN,
  poll,
  SO_RCVBUF,
  SO_SNDBUF,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
} from "./socket-calls.ts";

/** Listening TCP sockets with options that Bun cannot set, and both ends of accepted connections. */

const SO_REUSEADDR = 2;
const SO_REUSEPORT = 15;
const SO_ACCEPTCONN = 30;
const IPPROTO_IPV6 = 41;
const IPV6_V6ONLY = 26;
const F_DUPFD_CLOEXEC = 1030;

/** Why a TCP socket cannot listen. `code` is the error's name as Node has it. */
export class ListenError extends Error {
  readonly code: string;
  constructor(errorNumber: number) {
    const code = errnoName(errorNumber);
    super(code);
    this.code = code;
  }
}

/** A listening TCP socket. Connections are accepted through further descriptors of it. */
export class ListeningSocket {
  readonly #descriptor: number;
  readonly #backlog: number;

  /**
   * @param options.address 4 or 16 bytes; one of 16 is for IPv6 alone.
   * @param options.backlog connections that may wait to be accepted; net.core.somaxconn is the most.
   * @param options.receiveBytes SO_RCVBUF of each connection: the received bytes that the kernel buffers until we read them. The
   *   kernel doubles the value for its own bookkeeping (socket(7)). Without a value it would buffer megabytes (net.ipv4.tcp_wmem,
   *   tcp_rmem) for each client that sends and never reads.
   * @param options.sendBytes SO_SNDBUF, the same for the other direction.
   * @param options.sharePort SO_REUSEPORT: another process of the same uid may listen at the same endpoint.
   * @param options.inherited the descriptor of a socket that listens at the endpoint already, which is used instead of a new one;
   *   null for none. Where it does not listen there, it is closed, and the error's code is `EBADFD`.
   * @throws ListenError
   */
  constructor(options: {
    address: Uint8Array;
    port: number;
    backlog: number;
    receiveBytes: number;
    sendBytes: number;
    sharePort: boolean;
    inherited: number | null;
  }) {
    const { address, port, inherited } = options;
    const family = address.length === 4 ? AF_INET : AF_INET6;
    this.#backlog = options.backlog;
    this.#descriptor = inherited ?? libc.socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (this.#descriptor < 0) throw new ListenError(errno());
    const set = (level: number, name: number, value = 1) =>
      libc.setsockopt(this.#descriptor, level, name, ptr(Int32Array.of(value)), 4) === 0;
    const name = inetName(address, port);
    if (inherited !== null && !this.#listensAt(name)) {
      this.close();
      throw new ListenError(EBADFD);
    }
    const bound =
      inherited !== null ||
      (set(SOL_SOCKET, SO_REUSEADDR) &&
        (!options.sharePort || set(SOL_SOCKET, SO_REUSEPORT)) &&
        (family === AF_INET || set(IPPROTO_IPV6, IPV6_V6ONLY)) &&
        libc.bind(this.#descriptor, ptr(name), name.length) === 0);
    const listens =
      bound &&
      set(SOL_SOCKET, SO_SNDBUF, options.sendBytes) &&
      set(SOL_SOCKET, SO_RCVBUF, options.receiveBytes) &&
      libc.listen(this.#descriptor, this.#backlog) === 0;
    if (listens) return;
    const failure = new ListenError(errno());
    this.close();
    throw failure;
  }

  /** Whether it is a listening socket that is bound to exactly this name. */
  #listensAt(name: Uint8Array): boolean {
    const listening = new Int32Array(1);
    const length = Uint32Array.of(4);
    const found = new Uint8Array(name.length);
    const foundLength = Uint32Array.of(name.length);
    return (
      libc.getsockopt(this.#descriptor, SOL_SOCKET, SO_ACCEPTCONN, ptr(listening), ptr(length)) === 0 &&
      listening[0] === 1 &&
      libc.getsockname(this.#descriptor, ptr(found), ptr(foundLength)) === 0 &&
      foundLength[0] === name.length &&
      found.every((byte, index) => byte === name[index])
    );
  }

  /** The descriptor of the socket itself, for sending it to another process. The caller must not close it. */
  get handle(): number {
    return this.#descriptor;
  }

  /** A further descriptor of the same socket, which the caller closes. @throws ListenError where no descriptor is left. */
  descriptor(): number {
    const copy = libc.fcntl(this.#descriptor, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) throw new ListenError(errno());
    return copy;
  }

  /** Sets the backlog again, after Bun called listen(2) on the socket with 511. */
  restoreBacklog(): void {
    libc.listen(this.#descriptor, this.#backlog);
  }

  /** Whether a connection waits to be accepted. */
  get hasWaiting(): boolean {
    return poll([this.#descriptor], POLLIN, 0)[0] === POLLIN;
  }

  close(): void {
    libc.close(this.#descriptor);
  }
}

/** Why this process cannot have another socket, as the error's code such as EMFILE; null where it can. */
export function socketRefusal(): string | null {
  const descriptor = libc.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return errnoName(errno());
  libc.close(descriptor);
  return null;
}

/** Our end of a TCP connection, the address of 4 or 16 bytes in network order. */
export interface LocalEnd {
  readonly localAddress: Uint8Array;
  readonly localPort: number;
}

/** Both ends of a connected TCP socket. */
export interface SocketEnds extends LocalEnd {
  readonly peerAddress: Uint8Array;
  readonly peerPort: number;
}

/** The length of struct sockaddr_in6, the longer one (see inetName()). The buffers below are for {@link socketEnds}. */
const SOCKADDR_LENGTH = 28;
const endName = new Uint8Array(new ArrayBuffer(SOCKADDR_LENGTH));
const endNameAt = ptr(endName);
const endView = new DataView(endName.buffer);
const endLength = new Uint32Array(new ArrayBuffer(4));
const endLengthAt = ptr(endLength);

/**
 * Both ends of a connection as bytes (getsockname(2), getpeername(2)); null where the kernel does not tell them, as after a reset
 * by the client.
 *
 * @param bound the address of the listening socket. It is the local end of each accepted connection, which then need not be asked
 *   for. Null where the socket is bound to every address.
 */
export function socketEnds(descriptor: number, bound: LocalEnd | null): SocketEnds | null {
  let localAddress = bound?.localAddress ?? null;
  let localPort = bound?.localPort ?? 0;
  if (bound === null) {
    endLength[0] = SOCKADDR_LENGTH;
    if (libc.getsockname(descriptor, endNameAt, endLengthAt) !== 0) return null;
    localAddress = addressOfEnd();
    localPort = endView.getUint16(2, false);
  }
  endLength[0] = SOCKADDR_LENGTH;
  if (libc.getpeername(descriptor, endNameAt, endLengthAt) !== 0) return null;
  const peerAddress = addressOfEnd();
  if (localAddress === null || peerAddress === null) return null;
  return { localAddress, localPort, peerAddress, peerPort: endView.getUint16(2, false) };
}

function addressOfEnd(): Uint8Array | null {
  switch (endView.getUint16(0, true)) {
    case AF_INET:
      return endName.slice(4, 8);
    case AF_INET6:
      return endName.slice(8, 24);
    default:
      return null;
  }
}
