import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/** Root's small state files. Each write is atomic. */

/** @throws the error of the file system. */
export function writeWhole(path: string, value: unknown, mode: number): void {
  // Not subject to the umask, because users other than root read some of the files in it.
  if (mkdirSync(dirname(path), { recursive: true }) !== undefined) chmodSync(dirname(path), 0o755);
  writeFileSync(`${path}.new`, `${JSON.stringify(value)}\n`, { mode: 0o600 });
  // Not subject to the umask.
  chmodSync(`${path}.new`, mode);
  renameSync(`${path}.new`, path);
}

/** The value in a file; null where there is none that can be read. */
export function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return null;
  }
}

/** Creates the file where it does not exist. */
export function mark(path: string): void {
  if (!existsSync(path)) writeWhole(path, true, 0o600);
}

export const isMarked = (path: string): boolean => existsSync(path);

export const forget = (path: string): void => rmSync(path, { force: true });
