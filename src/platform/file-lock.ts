import { closeSync, constants, fstatSync, openSync, statSync } from "node:fs";
import { sleep } from "./clock.ts";
import { tryLock } from "./libc.ts";

/** Locks between processes: flock(2) on a file that only root can open. The kernel ends a lock with its process. */

/** Opens the file of a lock, makes it where it is absent, and follows no link. @throws what the file system says. */
export const openLock = (path: string): number =>
  openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);

/**
 * Waits for a lock.
 *
 * @param options.limitMs how long, in milliseconds.
 * @param options.pollMs how often it is tried.
 * @param options.onWait called once where somebody else has it.
 * @returns the descriptor, which has the lock until it is closed; null where the other still has it in the end.
 * @throws what the file system says.
 */
export async function waitForLock(
  path: string,
  options: { readonly limitMs: number; readonly pollMs: number; readonly onWait?: () => void },
): Promise<number | null> {
  for (let waitedMs = 0; ; waitedMs += options.pollMs) {
    const descriptor = openLock(path);
    // Whoever held it before may have removed the file in the end: then another may hold the one that is there now.
    if (tryLock(descriptor) && isStill(path, descriptor)) return descriptor;
    closeSync(descriptor);
    if (waitedMs === 0) options.onWait?.();
    if (waitedMs >= options.limitMs) return null;
    await sleep(options.pollMs);
  }
}

function isStill(path: string, descriptor: number): boolean {
  const found = statSync(path, { throwIfNoEntry: false });
  return found !== undefined && found.ino === fstatSync(descriptor).ino;
}
