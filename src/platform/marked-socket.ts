import { dlopen, FFIType, ptr, read } from "bun:ffi";

/**
 * TCP sockets of IPv4 with a firewall mark. The kernel routes a connection in connect(2), so the mark must be set before that,
 * which node:net has no way to do.
 */

const { symbols: libc } = dlopen("libc.so.6", {
  socket: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  setsockopt: {
    args: [FFIType.i32, FFIType.i32, FFIType.i32, FFIType.ptr, FFIType.u32],
    returns: FFIType.i32,
  },
  getsockopt: {
    args: [FFIType.i32, FFIType.i32, FFIType.i32, FFIType.ptr, FFIType.ptr],
    returns: FFIType.i32,
  },
  connect: { args: [FFIType.i32, FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
  getsockname: { args: [FFIType.i32, FFIType.ptr, FFIType.ptr], returns: FFIType.i32 },
  poll: { args: [FFIType.ptr, FFIType.u64_fast, FFIType.i32], returns: FFIType.i32 },
  close: { args: [FFIType.i32], returns: FFIType.i32 },
  __errno_location: { args: [], returns: FFIType.ptr },
});

const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_ERROR = 4;
const SO_MARK = 36;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const POLLOUT = 4;
const EACCES = 13;
const EINPROGRESS = 115;
/** sizeof(struct sockaddr_in) */
const NAME_LENGTH = 16;
const ERRNO_NAMES: Readonly<Record<number, string>> = {
  1: "EPERM",
  13: "EACCES",
  24: "EMFILE",
  101: "ENETUNREACH",
  104: "ECONNRESET",
  110: "ETIMEDOUT",
  111: "ECONNREFUSED",
  113: "EHOSTUNREACH",
};

const nameOf = (error: number): string => ERRNO_NAMES[error] ?? `errno ${error}`;

function errno(): number {
  const location = libc.__errno_location();
  return location === null ? 0 : read.i32(location);
}

/** struct sockaddr_in: u16 family, __be16 port, 4 bytes address, 8 of padding. */
function socketName(address: string, port: number): Uint8Array {
  const name = new Uint8Array(NAME_LENGTH);
  const view = new DataView(name.buffer);
  view.setUint16(0, AF_INET, true);
  view.setUint16(2, port, false);
  name.set(address.split(".").map(Number), 4);
  return name;
}

const setMark = (descriptor: number, mark: number): boolean =>
  libc.setsockopt(descriptor, SOL_SOCKET, SO_MARK, ptr(Uint32Array.of(mark)), 4) === 0;

/** How far a connection is. */
export type Progress =
  | { readonly kind: "connecting" }
  | { readonly kind: "connected"; readonly address: string; readonly port: number }
  | { readonly kind: "failed"; readonly code: string };

/** One connection, from connect(2) until it stands. */
export class MarkedSocket {
  readonly #descriptor: number;
  #failure: string | null = null;

  /**
   * Begins to connect. A failure is told by {@link progress}.
   *
   * @param address IPv4.
   * @param mark SO_MARK; needs CAP_NET_ADMIN.
   */
  constructor(address: string, port: number, mark: number) {
    this.#descriptor = libc.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (this.#descriptor < 0) {
      this.#failure = nameOf(errno());
      return;
    }
    libc.setsockopt(this.#descriptor, IPPROTO_TCP, TCP_NODELAY, ptr(Int32Array.of(1)), 4);
    if (!setMark(this.#descriptor, mark)) {
      this.#failure = nameOf(errno());
      return;
    }
    if (libc.connect(this.#descriptor, ptr(socketName(address, port)), NAME_LENGTH) === 0) return;
    const error = errno();
    if (error !== EINPROGRESS) this.#failure = nameOf(error);
  }

  /** Looks, without waiting. `connected` comes with our end's address. */
  progress(): Progress {
    if (this.#failure !== null) return { kind: "failed", code: this.#failure };
    // struct pollfd: i32 fd, i16 events, i16 revents
    const polled = new DataView(new ArrayBuffer(8));
    polled.setInt32(0, this.#descriptor, true);
    polled.setInt16(4, POLLOUT, true);
    if (libc.poll(ptr(polled.buffer), 1, 0) <= 0) return { kind: "connecting" };
    const error = new Int32Array(1);
    libc.getsockopt(this.#descriptor, SOL_SOCKET, SO_ERROR, ptr(error), ptr(Uint32Array.of(4)));
    if (error[0] !== 0) {
      this.#failure = nameOf(error[0] ?? 0);
      return { kind: "failed", code: this.#failure };
    }
    const name = new Uint8Array(NAME_LENGTH);
    libc.getsockname(this.#descriptor, ptr(name), ptr(Uint32Array.of(NAME_LENGTH)));
    return {
      kind: "connected",
      address: name.slice(4, 8).join("."),
      port: new DataView(name.buffer).getUint16(2, false),
    };
  }

  /** The socket; whoever takes it closes it. */
  get descriptor(): number {
    return this.#descriptor;
  }

  close(): void {
    if (this.#descriptor >= 0) libc.close(this.#descriptor);
  }
}

/**
 * Whether this process is forbidden the way to an address (EACCES, as by a route or rule of type `prohibit`). By connect(2) of a
 * UDP socket, which looks the route up and sends nothing (udp(7)).
 *
 * @param mark SO_MARK of the socket, which needs CAP_NET_ADMIN; null for none.
 */
export function isWayForbidden(address: string, port: number, mark: number | null): boolean {
  const descriptor = libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return false;
  try {
    if (mark !== null && !setMark(descriptor, mark)) return true;
    return libc.connect(descriptor, ptr(socketName(address, port)), NAME_LENGTH) !== 0 && errno() === EACCES;
  } finally {
    libc.close(descriptor);
  }
}
