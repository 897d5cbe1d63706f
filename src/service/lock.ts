import { closeSync, constants, fstatSync, openSync, rmSync, statSync } from "node:fs";
import { ImdsProxyError } from "../errors.ts";
import { sleep } from "../platform/clock.ts";
import { tryLock } from "../platform/libc.ts";

/**
 * Runs something while nobody else does. The kernel holds the lock, so that it ends with the process, however that ends;
 * the file is removed in the end.
 *
 * @param path a file that only root can open.
 * @param waitMs how long to wait for the other, in milliseconds.
 * @param onWait called once where somebody else has the lock.
 */
export async function withLock<T>(
  path: string,
  waitMs: number,
  onWait: () => void,
  run: () => Promise<T>,
): Promise<T> {
  for (let waitedMs = 0; ; waitedMs += 200) {
    const descriptor = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    try {
      // Whoever held it before may have removed the file in the end: then another may hold the one that is there now.
      if (tryLock(descriptor) && isStill(path, descriptor)) return await run().finally(() => rmSync(path));
    } finally {
      closeSync(descriptor);
    }
    if (waitedMs === 0) onWait();
    if (waitedMs >= waitMs) {
      throw new ImdsProxyError(
        "unhealthy",
        `another setup has been running for ${Math.round(waitMs / 1000)} s`,
        `find it with: fuser -v ${path}`,
      );
    }
    await sleep(200);
  }
}

function isStill(path: string, descriptor: number): boolean {
  const found = statSync(path, { throwIfNoEntry: false });
  return found !== undefined && found.ino === fstatSync(descriptor).ino;
}
