import { dlopen, FFIType, ptr, read } from "bun:ffi";

/**
 * Shared by the files of this directory that make sockets: calls of the C library, and the kernel's numbers and structs. Bun
 * offers no options of sockets, no netlink, and no uid of the other end.
 */

export const { symbols: libc } = dlopen("libc.so.6", {
  socket: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  bind: { args: [FFIType.i32, FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
  listen: { args: [FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  accept4: { args: [FFIType.i32, FFIType.ptr, FFIType.ptr, FFIType.i32], returns: FFIType.i32 },
  connect: { args: [FFIType.i32, FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
  getsockname: { args: [FFIType.i32, FFIType.ptr, FFIType.ptr], returns: FFIType.i32 },
  getpeername: { args: [FFIType.i32, FFIType.ptr, FFIType.ptr], returns: FFIType.i32 },
  getsockopt: {
    args: [FFIType.i32, FFIType.i32, FFIType.i32, FFIType.ptr, FFIType.ptr],
    returns: FFIType.i32,
  },
  setsockopt: {
    args: [FFIType.i32, FFIType.i32, FFIType.i32, FFIType.ptr, FFIType.u32],
    returns: FFIType.i32,
  },
  sendto: {
    args: [FFIType.i32, FFIType.ptr, FFIType.u64_fast, FFIType.i32, FFIType.ptr, FFIType.u32],
    returns: FFIType.i64_fast,
  },
  sendmsg: { args: [FFIType.i32, FFIType.ptr, FFIType.i32], returns: FFIType.i64_fast },
  recvfrom: {
    args: [FFIType.i32, FFIType.ptr, FFIType.u64_fast, FFIType.i32, FFIType.ptr, FFIType.ptr],
    returns: FFIType.i64_fast,
  },
  shutdown: { args: [FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  poll: { args: [FFIType.ptr, FFIType.u64_fast, FFIType.i32], returns: FFIType.i32 },
  fcntl: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  close: { args: [FFIType.i32], returns: FFIType.i32 },
  __errno_location: { args: [], returns: FFIType.ptr },
});

/** linux/socket.h, linux/net.h, asm-generic/socket.h, linux/in.h; the same on x86_64 and arm64. */
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
export const SO_SNDBUF = 7;
export const SO_RCVBUF = 8;
export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
/** poll.h */
export const POLLIN = 1;
export const POLLOUT = 4;
export const POLLERR = 8;
export const POLLHUP = 16;

/** asm-generic/errno-base.h and errno.h. */
export const EINTR = 4;
export const EAGAIN = 11;
export const EACCES = 13;
export const EBADFD = 77;
export const ENOTSOCK = 88;
export const ENOBUFS = 105;
export const ECONNREFUSED = 111;
export const EINPROGRESS = 115;
const ERRNO_NAMES: Readonly<Record<number, string>> = {
  1: "EPERM",
  13: "EACCES",
  23: "ENFILE",
  24: "EMFILE",
  77: "EBADFD",
  98: "EADDRINUSE",
  99: "EADDRNOTAVAIL",
  101: "ENETUNREACH",
  104: "ECONNRESET",
  110: "ETIMEDOUT",
  111: "ECONNREFUSED",
  113: "EHOSTUNREACH",
};

/** The error of the last call that failed. */
export function errno(): number {
  const location = libc.__errno_location();
  return location === null ? 0 : read.i32(location);
}

/** The error's name as Node has it, such as `EADDRINUSE`; `errno 5` for one that is not in the table. */
export const errnoName = (error: number): string => ERRNO_NAMES[error] ?? `errno ${error}`;

/**
 * struct sockaddr_in: u16 family, __be16 port, 4 bytes address, 8 of padding;
 * struct sockaddr_in6: u16 family, __be16 port, u32 flowinfo, 16 bytes address, u32 scope.
 *
 * @param address 4 or 16 bytes.
 */
export function inetName(address: Uint8Array, port: number): Uint8Array {
  const isIpv4 = address.length === 4;
  const name = new Uint8Array(isIpv4 ? 16 : 28);
  const view = new DataView(name.buffer);
  view.setUint16(0, isIpv4 ? AF_INET : AF_INET6, true);
  view.setUint16(2, port, false);
  name.set(address, isIpv4 ? 4 : 8);
  return name;
}

/** The four bytes of an IPv4 address in decimal. */
export const ipv4Bytes = (address: string): Uint8Array => Uint8Array.from(address.split("."), Number);

/**
 * struct sockaddr_un: u16 sun_family, char sun_path[108], a NUL at its end included. A leading `@` stands for the NUL of the abstract
 * namespace, whose names end without one (unix(7)). Null where the path is too long.
 */
export function unixName(path: string): Uint8Array | null {
  const bytes = Buffer.from(path);
  if (bytes.length > 107) return null;
  const isAbstract = path.startsWith("@");
  if (isAbstract) bytes[0] = 0;
  const name = new Uint8Array(2 + bytes.length + (isAbstract ? 0 : 1));
  name[0] = AF_UNIX;
  name.set(bytes, 2);
  return name;
}

/**
 * poll(2).
 *
 * @param events POLLIN, POLLOUT; 0 for errors and hang-ups only, which poll(2) reports in any case.
 * @param timeoutMs milliseconds; 0 does not wait, and -1 waits without a limit. A signal ends the wait.
 * @returns the events of each descriptor; 0 for none.
 */
export function poll(descriptors: readonly number[], events: number, timeoutMs: number): readonly number[] {
  // struct pollfd: i32 fd, i16 events, i16 revents
  const polled = new DataView(new ArrayBuffer(8 * Math.max(1, descriptors.length)));
  for (const [index, descriptor] of descriptors.entries()) {
    polled.setInt32(8 * index, descriptor, true);
    polled.setInt16(8 * index + 4, events, true);
  }
  if (libc.poll(ptr(polled.buffer), descriptors.length, timeoutMs) <= 0) return descriptors.map(() => 0);
  return descriptors.map((_, index) => polled.getInt16(8 * index + 6, true));
}

/** poll(2) of one descriptor. */
export const pollOne = (descriptor: number, events: number, timeoutMs: number): number =>
  poll([descriptor], events, timeoutMs)[0] ?? 0;
