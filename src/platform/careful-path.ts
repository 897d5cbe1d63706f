import { dlopen, FFIType, ptr } from "bun:ffi";
import { accessSync, closeSync, constants, fstatSync, openSync, readSync, type Stats } from "node:fs";
import { posix } from "node:path";
import { EACCES, errno } from "./socket-calls.ts";

/**
 * Examines paths that users may control. It walks one component at a time with O_PATH and O_NOFOLLOW, so that it opens nothing
 * for reading, touches no device or pipe, and follows no link that a user made. It enters no network file system.
 *
 * A file system that does not answer (FUSE, a dead mount) still blocks the call. So the caller must be a process that can be
 * killed.
 */

const { symbols: libc } = dlopen("libc.so.6", {
  openat: { args: [FFIType.i32, FFIType.ptr, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  readlinkat: { args: [FFIType.i32, FFIType.ptr, FFIType.ptr, FFIType.u64_fast], returns: FFIType.i64_fast },
});

const cString = (text: string): Uint8Array => Buffer.from(`${text}\0`);

/** O_PATH (asm-generic/fcntl.h; the same on x86_64 and arm64), which node:fs does not name. */
const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
const { O_NOFOLLOW, O_RDONLY, O_NONBLOCK } = constants;
const ENOENT = 2;
const ENOTDIR = 20;
/** The most links that are followed. The kernel's own limit, MAXSYMLINKS (linux/namei.h), is 40. */
const MOST_LINKS = 16;
const PATH_MAX = 4_096;

/** What is at a path. `descriptor` was opened with O_PATH; the caller closes it. */
export type Place =
  | { readonly kind: "there"; readonly descriptor: number; readonly stat: Stats }
  /** Nothing is there. */
  | { readonly kind: "absent" }
  /** This process may not search a directory on the way. */
  | { readonly kind: "closed" }
  /** At the path `at` is a symbolic link that somebody other than root could have made or changed. */
  | { readonly kind: "link"; readonly at: string }
  /** At the path `at`, a file system of this type is mounted, which must not be entered. */
  | { readonly kind: "mount"; readonly at: string; readonly type: string }
  | { readonly kind: "failed"; readonly at: string; readonly errno: number };

/**
 * Walks to a path.
 *
 * @param path absolute.
 * @param avoid returns the type of the file system that is mounted at a path, where it must not be entered; else null.
 */
export function walkTo(path: string, avoid: (path: string) => string | null): Place {
  let waiting = parts(path);
  let links = 0;
  let at = "/";
  let descriptor = openSync("/", O_PATH | O_CLOEXEC);
  let stat = fstatSync(descriptor);
  const end = (place: Place): Place => {
    closeSync(descriptor);
    return place;
  };
  for (;;) {
    const [name, ...rest] = waiting;
    if (name === undefined) return { kind: "there", descriptor, stat };
    const next = posix.join(at, name);
    const type = avoid(next);
    if (type !== null) return end({ kind: "mount", at: next, type });
    const opened = libc.openat(descriptor, ptr(cString(name)), O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
    if (opened < 0) {
      const code = errno();
      if (code === ENOENT || code === ENOTDIR) return end({ kind: "absent" });
      return end(code === EACCES ? { kind: "closed" } : { kind: "failed", at: next, errno: code });
    }
    const found = fstatSync(opened);
    if (!found.isSymbolicLink()) {
      closeSync(descriptor);
      [descriptor, stat, at, waiting] = [opened, found, next, rest];
      continue;
    }
    const target = linkTarget(opened);
    closeSync(opened);
    // Only root could have made the link, or put another in its place.
    const isRoots = found.uid === 0 && stat.uid === 0 && (stat.mode & 0o022) === 0;
    if (!isRoots || target === null || ++links > MOST_LINKS) return end({ kind: "link", at: next });
    closeSync(descriptor);
    waiting = [...parts(posix.resolve(at, target)), ...rest];
    at = "/";
    descriptor = openSync("/", O_PATH | O_CLOEXEC);
    stat = fstatSync(descriptor);
  }
}

const parts = (path: string): string[] =>
  posix
    .normalize(path)
    .split("/")
    .filter((part) => part !== "" && part !== ".");

/** readlinkat(2) with an empty name reads the link that the descriptor refers to. */
function linkTarget(descriptor: number): string | null {
  const buffer = new Uint8Array(PATH_MAX);
  const length = Number(libc.readlinkat(descriptor, ptr(cString("")), ptr(buffer), buffer.length));
  return length <= 0 || length >= PATH_MAX ? null : Buffer.from(buffer.subarray(0, length)).toString("utf8");
}

/** Whether this process may read or write the file of an O_PATH descriptor: by access(2), which checks the real uid. */
export function mayUse(descriptor: number, use: "read" | "write"): boolean {
  try {
    accessSync(`/proc/self/fd/${descriptor}`, use === "read" ? constants.R_OK : constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * The first bytes of the regular file of an O_PATH descriptor; empty where it is no regular file, or this process may not read
 * it.
 */
export function beginningOf(descriptor: number, mostBytes: number): string {
  if (!fstatSync(descriptor).isFile()) return "";
  let file: number;
  try {
    file = openSync(`/proc/self/fd/${descriptor}`, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  } catch {
    return "";
  }
  try {
    const bytes = Buffer.alloc(mostBytes);
    return bytes.toString("latin1", 0, readSync(file, bytes, 0, mostBytes, 0));
  } catch {
    return "";
  } finally {
    closeSync(file);
  }
}
