import { dlopen, FFIType, ptr } from "bun:ffi";
import { ImdsProxyError } from "../errors.ts";
import {
  EAGAIN,
  EINTR,
  ENOTSOCK,
  errno,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  POLLOUT,
  pollOne,
  libc as sockets,
} from "./socket-calls.ts";

/** Calls of the C library about this process and its files, which Bun does not offer. Only files in this directory use FFI. */

const { symbols: libc } = dlopen("libc.so.6", {
  write: { args: [FFIType.i32, FFIType.ptr, FFIType.u64_fast], returns: FFIType.i64_fast },
  prctl: {
    args: [FFIType.i32, FFIType.u64_fast, FFIType.u64_fast, FFIType.u64_fast, FFIType.u64_fast],
    returns: FFIType.i32,
  },
  setrlimit: { args: [FFIType.i32, FFIType.ptr], returns: FFIType.i32 },
  getrlimit: { args: [FFIType.i32, FFIType.ptr], returns: FFIType.i32 },
  flock: { args: [FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  memfd_create: { args: [FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
});

/** prctl(2); 0 for the arguments that an operation does not have. */
export const { prctl } = libc;

/** PIPE_BUF (pipe(7)): where poll(2) says that a pipe is writable, this many bytes can be written without blocking. */
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
    sockets.sendto(descriptor, ptr(bytes), bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL, null, 0),
  );
  if (sent >= 0) return sent;
  let error = errno();
  if (error === ENOTSOCK) {
    if (pollOne(descriptor, POLLOUT, 0) === 0) return 0;
    const written = Number(libc.write(descriptor, ptr(bytes), Math.min(bytes.length, PIPE_BYTES)));
    if (written >= 0) return written;
    error = errno();
  }
  return error === EAGAIN || error === EINTR ? 0 : -1;
}

const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_IS_SET = 1;
const PR_CAP_AMBIENT_RAISE = 2;
const PR_CAP_AMBIENT_CLEAR_ALL = 4;
/** Capabilities have numbers below this (linux/capability.h has 41). */
const CAPABILITIES = 64;

/**
 * Starts a program without this process's capabilities. A program that is neither root's nor set-user-id inherits the ambient
 * ones (capabilities(7)), so they are dropped while `start` runs. This uses no capset(2), which systemd's @system-service does
 * not allow.
 *
 * @param start must be synchronous: other code would otherwise run in between, and start its programs without capabilities.
 */
export function withoutAmbientCapabilities<T>(start: () => T): T {
  const ambient: number[] = [];
  for (let capability = 0; capability < CAPABILITIES; capability++) {
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0) === 1) ambient.push(capability);
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  try {
    return start();
  } finally {
    for (const capability of ambient) prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
  }
}

const PR_SET_DUMPABLE = 4;
const RLIMIT_CORE = 4;
const RLIMIT_NOFILE = 7;

/**
 * Forbids core files, and keeps other processes of the same account from looking into this one: PR_SET_DUMPABLE 0 also makes root
 * the owner of /proc/PID (prctl(2), proc(5)).
 */
export function forbidDumps(): void {
  const none = new BigUint64Array(2);
  if (libc.setrlimit(RLIMIT_CORE, ptr(none)) !== 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) !== 0) {
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

/** Locks the file (flock(2)) until the descriptor is closed; false where somebody else holds the lock. */
export function tryLock(descriptor: number): boolean {
  return libc.flock(descriptor, LOCK_EX | LOCK_NB) === 0;
}

const MFD_CLOEXEC = 1;

/**
 * An anonymous file (memfd_create(2)), for the standard input or output of a program that must complete even where this process
 * dies. Unlike a pipe, it holds the whole text and never causes EPIPE.
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
