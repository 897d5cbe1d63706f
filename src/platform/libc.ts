import { dlopen, FFIType, ptr, read } from "bun:ffi";
import { ImdsProxyError } from "../errors.ts";

/**
 * Calls of the C library that Bun does not offer. Only files in this directory use FFI.
 */

const { symbols: libc } = dlopen("libc.so.6", {
  socket: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  bind: { args: [FFIType.i32, FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
  getsockname: { args: [FFIType.i32, FFIType.ptr, FFIType.ptr], returns: FFIType.i32 },
  getpeername: { args: [FFIType.i32, FFIType.ptr, FFIType.ptr], returns: FFIType.i32 },
  listen: { args: [FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  getsockopt: {
    args: [FFIType.i32, FFIType.i32, FFIType.i32, FFIType.ptr, FFIType.ptr],
    returns: FFIType.i32,
  },
  setsockopt: {
    args: [FFIType.i32, FFIType.i32, FFIType.i32, FFIType.ptr, FFIType.u32],
    returns: FFIType.i32,
  },
  fcntl: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  sendto: {
    args: [FFIType.i32, FFIType.ptr, FFIType.u64_fast, FFIType.i32, FFIType.ptr, FFIType.u32],
    returns: FFIType.i64_fast,
  },
  recvfrom: {
    args: [FFIType.i32, FFIType.ptr, FFIType.u64_fast, FFIType.i32, FFIType.ptr, FFIType.ptr],
    returns: FFIType.i64_fast,
  },
  write: { args: [FFIType.i32, FFIType.ptr, FFIType.u64_fast], returns: FFIType.i64_fast },
  close: { args: [FFIType.i32], returns: FFIType.i32 },
  poll: { args: [FFIType.ptr, FFIType.u64_fast, FFIType.i32], returns: FFIType.i32 },
  prctl: {
    args: [FFIType.i32, FFIType.u64_fast, FFIType.u64_fast, FFIType.u64_fast, FFIType.u64_fast],
    returns: FFIType.i32,
  },
  setrlimit: { args: [FFIType.i32, FFIType.ptr], returns: FFIType.i32 },
  getrlimit: { args: [FFIType.i32, FFIType.ptr], returns: FFIType.i32 },
  flock: { args: [FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  memfd_create: { args: [FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
  __errno_location: { args: [], returns: FFIType.ptr },
});

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
/** struct sockaddr_nl: u16 nl_family, u16 pad, u32 nl_pid, u32 nl_groups */
const NETLINK_ADDRESS_LENGTH = 12;
const SOL_NETLINK = 270;
const NETLINK_GET_STRICT_CHK = 12;

function errno(): number {
  const location = libc.__errno_location();
  return location === null ? 0 : read.i32(location);
}

/** A netlink socket that talks to the kernel alone. */
export class NetlinkSocket {
  readonly portId: number;
  readonly #descriptor: number;
  // Each with a buffer of its own, which stays where it is: its address is asked for once.
  readonly #buffer = new Uint8Array(new ArrayBuffer(16_384));
  readonly #bufferAt = ptr(this.#buffer);
  /** What was received last. */
  #datagram = new DataView(this.#buffer.buffer, 0, 0);
  readonly #kernel = new Uint8Array(new ArrayBuffer(NETLINK_ADDRESS_LENGTH));
  readonly #kernelAt = ptr(this.#kernel);
  readonly #sender = new DataView(new ArrayBuffer(NETLINK_ADDRESS_LENGTH));
  readonly #senderAt = ptr(this.#sender);
  readonly #senderLength = new Uint32Array(new ArrayBuffer(4));
  readonly #senderLengthAt = ptr(this.#senderLength);

  /**
   * @param protocol NETLINK_SOCK_DIAG, NETLINK_NETFILTER, … (linux/netlink.h).
   * @param groups bit mask of the multicast groups to hear from; default none.
   * @throws ImdsProxyError `missing` where the kernel has no such protocol, or the process may not use AF_NETLINK.
   */
  constructor(protocol: number, what: string, groups = 0) {
    this.#descriptor = libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (this.#descriptor < 0) {
      throw new ImdsProxyError(
        "missing",
        `cannot open a netlink socket for ${what} (errno ${errno()})`,
        "the kernel must have it (modules nf_conntrack_netlink, tcp_diag), and a sandbox must allow AF_NETLINK",
      );
    }
    new DataView(this.#kernel.buffer).setUint16(0, AF_NETLINK, true);
    const address = this.#kernel.slice();
    new DataView(address.buffer).setUint32(8, groups, true);
    const length = Uint32Array.of(NETLINK_ADDRESS_LENGTH);
    if (
      libc.bind(this.#descriptor, ptr(address), NETLINK_ADDRESS_LENGTH) !== 0 ||
      libc.getsockname(this.#descriptor, ptr(address), ptr(length)) !== 0
    ) {
      throw new ImdsProxyError(
        "missing",
        `cannot bind a netlink socket for ${what} (errno ${errno()})`,
        "try again; a sandbox must allow AF_NETLINK",
      );
    }
    this.portId = new DataView(address.buffer).getUint32(4, true);
  }

  send(request: Uint8Array): void {
    const sent = libc.sendto(
      this.#descriptor,
      ptr(request),
      request.length,
      0,
      this.#kernelAt,
      NETLINK_ADDRESS_LENGTH,
    );
    if (Number(sent) !== request.length) throw new Error(`sendto: errno ${errno()}`);
  }

  /**
   * Raises the longest message that can be sent; by default it is net.core.wmem_default (netlink_sendmsg in
   * net/netlink/af_netlink.c: EMSGSIZE). More than net.core.wmem_max needs CAP_NET_ADMIN; without it, that is the limit.
   */
  makeRoom(bytes: number): void {
    // The kernel doubles the value, for its own bookkeeping (socket(7)).
    const wanted = Int32Array.of(bytes);
    if (libc.setsockopt(this.#descriptor, SOL_SOCKET, SO_SNDBUFFORCE, ptr(wanted), 4) !== 0)
      libc.setsockopt(this.#descriptor, SOL_SOCKET, SO_SNDBUF, ptr(wanted), 4);
  }

  /**
   * Raises how much the kernel keeps of what this process has not read yet, by default net.core.rmem_default. Needs CAP_NET_ADMIN
   * for more than net.core.rmem_max; without it, that is the limit.
   */
  makeReceiveRoom(bytes: number): void {
    const wanted = Int32Array.of(bytes);
    if (libc.setsockopt(this.#descriptor, SOL_SOCKET, SO_RCVBUFFORCE, ptr(wanted), 4) !== 0)
      libc.setsockopt(this.#descriptor, SOL_SOCKET, SO_RCVBUF, ptr(wanted), 4);
  }

  /** As {@link receive}, but tells an overrun (ENOBUFS: the kernel dropped messages since the last call) from an empty queue. */
  receiveOrOverrun(): DataView | "overrun" | null {
    const datagram = this.receive();
    return datagram === null && errno() === ENOBUFS ? "overrun" : datagram;
  }

  receive(): DataView | null {
    this.#senderLength[0] = NETLINK_ADDRESS_LENGTH;
    const length = Number(
      libc.recvfrom(
        this.#descriptor,
        this.#bufferAt,
        this.#buffer.length,
        MSG_DONTWAIT,
        this.#senderAt,
        this.#senderLengthAt,
      ),
    );
    if (length < 0) return null;
    // nl_pid 0 is the kernel; any other number is another process that sent to our socket.
    if (this.#sender.getUint32(4, true) !== 0) throw new Error("a process answered for the kernel");
    // The kernel's answers to one kind of question have mostly one length.
    if (this.#datagram.byteLength !== length) this.#datagram = new DataView(this.#buffer.buffer, 0, length);
    return this.#datagram;
  }

  /**
   * Lets a request for a list say what of it is wanted, such as one table of routes (NETLINK_GET_STRICT_CHK, linux 4.20;
   * an older kernel lists everything).
   */
  checkStrictly(): void {
    libc.setsockopt(this.#descriptor, SOL_NETLINK, NETLINK_GET_STRICT_CHK, ptr(Int32Array.of(1)), 4);
  }

  /** The descriptor, for {@link waitReadable}. */
  get descriptor(): number {
    return this.#descriptor;
  }

  close(): void {
    libc.close(this.#descriptor);
  }
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

/** struct sockaddr_in and sockaddr_in6, as at {@link ListeningSocket}, for {@link socketEnds}. */
const SOCKADDR_LENGTH = 28;
const endName = new Uint8Array(new ArrayBuffer(SOCKADDR_LENGTH));
const endNameAt = ptr(endName);
const endView = new DataView(endName.buffer);
const endLength = new Uint32Array(new ArrayBuffer(4));
const endLengthAt = ptr(endLength);

/**
 * Both ends of a connection, without text (getsockname(2), getpeername(2)); null where the kernel has none, as of one that its client
 * has reset.
 *
 * @param bound where the listening socket is bound: the local end of each connection that it accepts, which then need not be asked for.
 *   Null where it is bound to every address.
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

const POLLIN = 1;
const POLLOUT = 4;
const MSG_NOSIGNAL = 0x4000;
const EINTR = 4;
const EAGAIN = 11;
const ENOTSOCK = 88;
const ENOBUFS = 105;
/** PIPE_BUF (pipe(7)): a pipe that poll(2) says can be written to takes as much without blocking. */
const PIPE_BYTES = 4_096;

/**
 * Writes as many bytes as can be written without blocking. O_NONBLOCK is left as it is, because other processes share the
 * open file.
 *
 * @returns the number of bytes; 0 where writing would block; -1 where the reader is gone for good.
 */
export function writeWithoutWaiting(descriptor: number, bytes: Uint8Array): number {
  if (bytes.length === 0) return 0;
  const sent = Number(
    libc.sendto(descriptor, ptr(bytes), bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL, null, 0),
  );
  if (sent >= 0) return sent;
  let error = errno();
  if (error === ENOTSOCK) {
    const polled = new DataView(new ArrayBuffer(8));
    polled.setInt32(0, descriptor, true);
    polled.setInt16(4, POLLOUT, true);
    if (libc.poll(ptr(polled.buffer), 1, 0) <= 0) return 0;
    const written = Number(libc.write(descriptor, ptr(bytes), Math.min(bytes.length, PIPE_BYTES)));
    if (written >= 0) return written;
    error = errno();
  }
  return error === EAGAIN || error === EINTR ? 0 : -1;
}

/**
 * Blocks this thread until one of the descriptors is readable or has an error (poll(2)). For a process whose only task is to
 * react to events at once, without a thread.
 *
 * @param timeoutMs the longest wait in milliseconds; a signal ends it as well.
 * @returns whether a descriptor is ready.
 */
export function waitReadable(descriptors: readonly number[], timeoutMs: number): boolean {
  // struct pollfd: i32 fd, i16 events, i16 revents
  const polled = new DataView(new ArrayBuffer(8 * Math.max(1, descriptors.length)));
  for (const [i, descriptor] of descriptors.entries()) {
    polled.setInt32(8 * i, descriptor, true);
    polled.setInt16(8 * i + 4, POLLIN, true);
  }
  return libc.poll(ptr(polled.buffer), descriptors.length, timeoutMs) > 0;
}

const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_IS_SET = 1;
const PR_CAP_AMBIENT_RAISE = 2;
const PR_CAP_AMBIENT_CLEAR_ALL = 4;
/** Capabilities have numbers below this (linux/capability.h has 41). */
const CAPABILITIES = 64;

/**
 * Starts a program that gets none of this process's capabilities: those that are ambient, which a program keeps that is neither
 * root's nor set-user-id (capabilities(7)), are given up for as long as `start` takes. capset(2) is not in @system-service.
 *
 * @param start must be synchronous: other code would otherwise run in between, and start its programs without capabilities.
 */
export function withoutAmbientCapabilities<T>(start: () => T): T {
  const ambient: number[] = [];
  for (let capability = 0; capability < CAPABILITIES; capability++) {
    if (libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0) === 1) ambient.push(capability);
  }
  libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  try {
    return start();
  } finally {
    for (const capability of ambient) libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
  }
}

const PR_SET_DUMPABLE = 4;
const RLIMIT_CORE = 4;
const RLIMIT_NOFILE = 7;

/**
 * No core file, and no look into the process by others of the same account: prctl(PR_SET_DUMPABLE, 0) also gives
 * /proc/PID to root (prctl(2), proc(5)).
 */
export function forbidDumps(): void {
  const none = new BigUint64Array(2);
  if (libc.setrlimit(RLIMIT_CORE, ptr(none)) !== 0 || libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) !== 0) {
    throw new ImdsProxyError(
      "permission",
      `cannot forbid core dumps (errno ${errno()})`,
      "a sandbox must allow prctl and setrlimit",
    );
  }
}

/** Raises the soft limit of open files to the hard one, and returns it. */
export function raiseFileLimit(): number {
  const limit = new BigUint64Array(2);
  if (libc.getrlimit(RLIMIT_NOFILE, ptr(limit)) !== 0) return 1024;
  const hard = limit[1] ?? 1024n;
  limit[0] = hard;
  libc.setrlimit(RLIMIT_NOFILE, ptr(limit));
  return Number(hard > 1_048_576n ? 1_048_576n : hard);
}

const LOCK_EX = 2;
const LOCK_NB = 4;

/** Takes the whole file for this process (flock(2)) until the descriptor is closed; false where somebody else has it. */
export function tryLock(descriptor: number): boolean {
  return libc.flock(descriptor, LOCK_EX | LOCK_NB) === 0;
}

const MFD_CLOEXEC = 1;

/**
 * An anonymous file (memfd_create(2)), for the standard input or output of a program that must go on after this process has
 * died: unlike a pipe it holds all of its text and never gives EPIPE.
 *
 * @returns a descriptor, to be closed by the caller; its offset is 0.
 */
export function anonymousFile(name: string): number {
  const descriptor = libc.memfd_create(ptr(Buffer.from(`${name}\0`)), MFD_CLOEXEC);
  if (descriptor < 0)
    throw new ImdsProxyError(
      "missing",
      `cannot make an anonymous file (errno ${errno()})`,
      "a sandbox must allow memfd_create, and the limit of open files must leave room",
    );
  return descriptor;
}

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const SO_REUSEPORT = 15;
const SO_ACCEPTCONN = 30;
const IPPROTO_IPV6 = 41;
const IPV6_V6ONLY = 26;
const F_DUPFD_CLOEXEC = 1030;
const EBADFD = 77;
const ERRNO_NAMES: Readonly<Record<number, string>> = {
  1: "EPERM",
  13: "EACCES",
  23: "ENFILE",
  24: "EMFILE",
  77: "EBADFD",
  98: "EADDRINUSE",
  99: "EADDRNOTAVAIL",
};

/** What kept a TCP socket from listening; `code` as Node names it. */
export class ListenError extends Error {
  readonly code: string;
  constructor(errorNumber: number) {
    const code = ERRNO_NAMES[errorNumber] ?? `errno ${errorNumber}`;
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
   * @param options.receiveBytes SO_RCVBUF of each connection: what the kernel keeps of what the other side has sent and
   *   we have not read. The kernel takes it twice, for its own needs (socket(7)); by itself it would keep megabytes
   *   (net.ipv4.tcp_wmem, tcp_rmem) for each client that sends and never reads.
   * @param options.sendBytes SO_SNDBUF, the same for the other direction.
   * @param options.sharePort SO_REUSEPORT: another process of the same uid may listen at the same endpoint.
   * @param options.inherited a descriptor of a socket that listens at the endpoint already, which is then taken instead of a new
   *   one; null for none. One that does not is closed, and the error's code is `EBADFD`.
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
    // struct sockaddr_in: u16 family, __be16 port, 4 bytes address, 8 of padding;
    // struct sockaddr_in6: u16 family, __be16 port, u32 flowinfo, 16 bytes address, u32 scope.
    const name = new Uint8Array(family === AF_INET ? 16 : 28);
    const view = new DataView(name.buffer);
    view.setUint16(0, family, true);
    view.setUint16(2, port, false);
    name.set(address, family === AF_INET ? 4 : 8);
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

  /** The socket itself, for as long as it is open: to be sent to somebody else, and not to be closed. */
  get handle(): number {
    return this.#descriptor;
  }

  /** A further descriptor of the same socket, which its user has to close. @throws ListenError where files run out. */
  descriptor(): number {
    const copy = libc.fcntl(this.#descriptor, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) throw new ListenError(errno());
    return copy;
  }

  /** Sets the length of the queue again, after somebody else called listen(2) on the socket: Bun does, with 511. */
  restoreBacklog(): void {
    libc.listen(this.#descriptor, this.#backlog);
  }

  close(): void {
    libc.close(this.#descriptor);
  }
}

const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2;
const SECCOMP_RET_ALLOW = 0x7fff0000;
/** SECCOMP_RET_ERRNO with errno 0: the call is not made, and returns 0 (seccomp(2)). */
const SECCOMP_RET_DONE = 0x00050000;
/** BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K (linux/bpf_common.h). */
const LOAD = 0x20;
const JUMP_IF_EQUAL = 0x15;
const RETURN = 0x06;
/** AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 (linux/audit.h), and the number of listen(2) there. */
const LISTEN_CALLS: Readonly<Record<string, readonly [arch: number, listen: number]>> = {
  x64: [0xc000003e, 50],
  arm64: [0xc00000b7, 201],
};
/** What Bun gives listen(2), also for a socket that listens already. */
const BUN_BACKLOG = 511;

/**
 * From now on, listen(2) with Bun's backlog does nothing, in this process and its children: Bun calls it each time that it is
 * given our listening socket, and until {@link ListeningSocket.restoreBacklog} the kernel drops what exceeds 511; the
 * client of a dropped SYN comes back a second later. Call it when everything listens. Without seccomp, nothing changes.
 */
export function keepBacklogs(): void {
  const call = LISTEN_CALLS[process.arch];
  if (call === undefined) return;
  const [arch, listen] = call;
  // struct seccomp_data: i32 nr, u32 arch, u64 instruction_pointer, u64 args[6]; args[1] begins at 24.
  const program: readonly (readonly [code: number, ifTrue: number, ifFalse: number, value: number])[] = [
    [LOAD, 0, 0, 4],
    [JUMP_IF_EQUAL, 0, 5, arch],
    [LOAD, 0, 0, 0],
    [JUMP_IF_EQUAL, 0, 3, listen],
    [LOAD, 0, 0, 24],
    [JUMP_IF_EQUAL, 0, 1, BUN_BACKLOG],
    [RETURN, 0, 0, SECCOMP_RET_DONE],
    [RETURN, 0, 0, SECCOMP_RET_ALLOW],
  ];
  // struct sock_filter: u16 code, u8 jt, u8 jf, u32 k. struct sock_fprog: u16 len, then the pointer at 8.
  const filter = new DataView(new ArrayBuffer(8 * program.length));
  for (const [index, [code, ifTrue, ifFalse, value]] of program.entries()) {
    filter.setUint16(8 * index, code, true);
    filter.setUint8(8 * index + 2, ifTrue);
    filter.setUint8(8 * index + 3, ifFalse);
    filter.setUint32(8 * index + 4, value, true);
  }
  const fprog = new DataView(new ArrayBuffer(16));
  fprog.setUint16(0, program.length, true);
  fprog.setBigUint64(8, BigInt(ptr(filter.buffer)), true);
  if (libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) !== 0) return;
  libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ptr(fprog.buffer), 0, 0);
}
