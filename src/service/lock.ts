import { closeSync, rmSync } from "node:fs";
import { ImdsProxyError } from "../errors.ts";
import { waitForLock } from "../platform/file-lock.ts";

/**
 * Runs `run` under an exclusive lock, and removes the lock's file afterwards.
 *
 * @param path a file that only root can open.
 * @param waitMs how long to wait for the lock, in milliseconds.
 * @param onWait called once where somebody else has the lock.
 */
export async function withLock<T>(
  path: string,
  waitMs: number,
  onWait: () => void,
  run: () => Promise<T>,
): Promise<T> {
  const descriptor = await waitForLock(path, { limitMs: waitMs, pollMs: 200, onWait });
  if (descriptor === null) {
    throw new ImdsProxyError(
      "unhealthy",
      `another setup has been running for ${Math.round(waitMs / 1000)} s`,
      `find it with: fuser -v ${path}`,
    );
  }
  try {
    return await run();
  } finally {
    // Where somebody has removed the file meanwhile, what was done is done all the same.
    rmSync(path, { force: true });
    closeSync(descriptor);
  }
}
