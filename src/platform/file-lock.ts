import { closeSync, constants, fstatSync, openSync, statSync } from "node:fs";
import { beginningOfFile } from "../bounded-read.ts";
import { sleep } from "./clock.ts";
import { tryLock } from "./libc.ts";

/** Locks between processes: flock(2) on a file that only root can open. The kernel ends a lock with its process. */

/** Opens a lock's file, and creates it where it is absent. Follows no link. @throws the error of the file system. */
export const openLock = (path: string): number =>
  openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);

/**
 * Waits for a lock.
 *
 * @param options.limitMs the longest wait in milliseconds.
 * @param options.pollMs milliseconds between two tries.
 * @param options.onWait called once where somebody else holds the lock.
 * @returns the descriptor, which holds the lock until it is closed; null where somebody else still holds it after the wait.
 * @throws what the file system says.
 */
export async function waitForLock(
  path: string,
  options: { readonly limitMs: number; readonly pollMs: number; readonly onWait?: () => void },
): Promise<number | null> {
  for (let waitedMs = 0; ; waitedMs += options.pollMs) {
    const descriptor = openLock(path);
    // The former holder may have removed the file. Then this lock is on the removed file, and another process may hold the
    // present one.
    if (tryLock(descriptor) && isStill(path, descriptor)) return descriptor;
    closeSync(descriptor);
    if (waitedMs === 0) options.onWait?.();
    if (waitedMs >= options.limitMs) return null;
    await sleep(options.pollMs);
  }
}

/**
 * Bytes of /proc/locks that are read: some 5,000 locks. Users can take a million, and the kernel goes through all that it has listed
 * once more for each page of the list (seq_read_iter() in fs/seq_file.c).
 */
const MOST_LOCK_BYTES = 256 * 1_024;

/**
 * The process that holds a lock, by /proc/locks: a try to take the lock could keep somebody else from it. Null where nobody holds
 * it, its holder is outside of this pid namespace, or the kernel lists thousands of other locks before it.
 *
 * @param locks default: this machine's. As in proc_locks(5): `1: FLOCK  ADVISORY  WRITE 25484 00:1a:1234 0 EOF`, the device in hexadecimal digits; `->`
 *   marks a process that waits.
 * @throws what the file system says.
 */
export function lockHolder(path: string, locks?: string): number | null {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (found === undefined) return null;
  const list = locks ?? beginningOfFile("/proc/locks", MOST_LOCK_BYTES).toString("latin1");
  // new_encode_dev() in linux/kdev_t.h: twelve bits of the major number above the lower eight of the minor one.
  const major = (found.dev >> 8n) & 0xfffn;
  const minor = (found.dev & 0xffn) | ((found.dev >> 12n) & 0xfff00n);
  const hex = (number: bigint) => number.toString(16).padStart(2, "0");
  const file = `${hex(major)}:${hex(minor)}:${found.ino}`;
  for (const line of list.split("\n")) {
    const [, kind, , mode, pid, of] = line.trim().split(/\s+/);
    if (kind === "FLOCK" && mode === "WRITE" && of === file && Number(pid) > 0) return Number(pid);
  }
  return null;
}

function isStill(path: string, descriptor: number): boolean {
  const found = statSync(path, { throwIfNoEntry: false });
  return found !== undefined && found.ino === fstatSync(descriptor).ino;
}
