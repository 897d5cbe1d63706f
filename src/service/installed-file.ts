import { closeSync, lstatSync, openSync, readFileSync, readSync, realpathSync, statSync } from "node:fs";
import { ImdsProxyError } from "../errors.ts";
import type { FileChange } from "./transaction.ts";

/** Files as setup finds them on the node. */

/** The text of a file; null where it is not there. @throws ImdsProxyError `config` where it cannot be read. */
export function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw new ImdsProxyError(
      "config",
      `cannot read ${path}: ${(error as NodeJS.ErrnoException).code}`,
      "run it as root, and name a file that can be read",
    );
  }
}

/** Whether a file has the content, the mode and the owner that it should have. */
export function isCurrent(change: FileChange, serviceGid: number | undefined): boolean {
  let found: ReturnType<typeof lstatSync>;
  try {
    found = lstatSync(change.path);
  } catch {
    return false;
  }
  const gid = change.forService === true ? serviceGid : 0;
  if (!found.isFile() || (found.mode & 0o7777) !== change.mode || found.uid !== 0 || found.gid !== gid)
    return false;
  if ("text" in change.content) return readFileSync(change.path, "utf8") === change.content.text;
  return sameBytes(change.path, realpathSync(change.content.copyOf));
}

/** Whether two files have the same bytes. @throws the error of the file system. */
export function sameBytes(a: string, b: string): boolean {
  if (a === b) return true;
  if (statSync(a).size !== statSync(b).size) return false;
  const descriptors = [openSync(a, "r"), openSync(b, "r")] as const;
  const chunks = [Buffer.alloc(1 << 20), Buffer.alloc(1 << 20)] as const;
  try {
    for (;;) {
      const [left, right] = [readSync(descriptors[0], chunks[0]), readSync(descriptors[1], chunks[1])];
      if (left !== right || !chunks[0].subarray(0, left).equals(chunks[1].subarray(0, right))) return false;
      if (left === 0) return true;
    }
  } finally {
    for (const descriptor of descriptors) closeSync(descriptor);
  }
}
