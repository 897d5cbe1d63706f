import { randomBytes } from "node:crypto";
import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { ImdsProxyError } from "../errors.ts";

/**
 * The key of our tokens, a file in the state directory. It is made once, and only the service's account can read it. It
 * outlives the process, and with it do clients' tokens of six hours.
 */

/** Bytes of a key. */
export const KEY_LENGTH = 32;

/**
 * The key in the state directory, made where there is none.
 *
 * @throws ImdsProxyError `unsafe` where another user could read or write it, `permission` where we cannot.
 */
export function tokenKey(stateDirectory: string): Uint8Array {
  // lstat(2) follows a symbolic link whose path ends in a slash.
  const directory = stateDirectory.replace(/\/+$/, "") || "/";
  prepareDirectory(directory);
  const path = `${directory}/token.key`;
  return readKey(path) ?? makeKey(directory, path);
}

/** Makes the state directory where it is missing, and refuses one that others could change. */
function prepareDirectory(directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o700, recursive: true });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    throw new ImdsProxyError(
      "permission",
      `cannot make the state directory ${directory}: ${code}`,
      "for the service, setup --state-dir DIR writes the unit that lets it write there; by hand, choose another with --state-dir",
    );
  }
  refuseIfShared(directory, lstatSync(directory), "directory");
  // Whoever can replace a directory above can replace the key. So each must be root's or the service's own, and must not be
  // writable by others unless it is sticky, as /tmp is.
  for (let parent = parentOf(directory); ; parent = parentOf(parent)) {
    const { uid, mode } = lstatSync(parent);
    const foreign = uid !== 0 && uid !== process.getuid?.();
    if (foreign || ((mode & 0o022) !== 0 && (mode & 0o1000) === 0)) {
      throw new ImdsProxyError(
        "unsafe",
        `the state directory ${directory} is below ${parent}, which ${foreign ? `uid ${uid} owns` : "others may write"}`,
        "use a directory below root's own, such as /var/lib/imdsproxy",
      );
    }
    if (parent === "/") break;
  }
}

const parentOf = (path: string): string => path.replace(/\/+[^/]*\/*$/, "") || "/";

interface Ownership {
  readonly uid: number;
  readonly mode: number;
  isDirectory(): boolean;
  isFile(): boolean;
}

function refuseIfShared(path: string, found: Ownership, kind: "directory" | "file"): void {
  const right = kind === "directory" ? found.isDirectory() : found.isFile();
  const permissions = (found.mode & 0o777).toString(8).padStart(4, "0");
  const problem = !right
    ? `is no ${kind}`
    : found.uid !== process.getuid?.()
      ? `belongs to uid ${found.uid}, not to this service's account`
      : (found.mode & 0o077) !== 0 && kind === "file"
        ? `can be read or written by others (mode ${permissions})`
        : (found.mode & 0o022) !== 0
          ? `can be written by others (mode ${permissions})`
          : null;
  if (problem === null) return;
  throw new ImdsProxyError(
    "unsafe",
    `${path} ${problem}`,
    found.uid === process.getuid?.()
      ? `close it to others: chmod ${kind === "directory" ? "0700" : "0600"} ${path}`
      : `it must belong to uid ${process.getuid?.()} and be closed to others; beside the installed service, try with a directory of your own: --state-dir DIR`,
  );
}

function readKey(path: string): Uint8Array | null {
  let descriptor: number;
  try {
    // O_NONBLOCK: opening a FIFO in its place would block.
    descriptor = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT") return null;
    throw new ImdsProxyError(
      code === "ELOOP" ? "unsafe" : "permission",
      `cannot read ${path}: ${code}`,
      "remove it: a new key is made at the next start",
    );
  }
  try {
    refuseIfShared(path, fstatSync(descriptor), "file");
    const key = new Uint8Array(KEY_LENGTH + 1);
    if (readSync(descriptor, key) !== KEY_LENGTH) {
      throw new ImdsProxyError(
        "unsafe",
        `${path} does not hold a key of ${KEY_LENGTH} bytes`,
        "remove it: a new key is made at the next start",
      );
    }
    return key.slice(0, KEY_LENGTH);
  } finally {
    closeSync(descriptor);
  }
}

/** Writes a new key atomically. Where two processes make one at the same time, both use the first. */
function makeKey(directory: string, path: string): Uint8Array {
  const key = randomBytes(KEY_LENGTH);
  const draft = `${directory}/.token.key.${process.pid}.${randomBytes(4).toString("hex")}`;
  try {
    const descriptor = openSync(draft, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
    try {
      writeSync(descriptor, key);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    chmodSync(draft, 0o600);
    linkSync(draft, path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "EEXIST") {
      const other = readKey(path);
      if (other !== null) return other;
    }
    throw new ImdsProxyError(
      "permission",
      `cannot keep the token key in ${directory}: ${code}`,
      "the directory must be writable, with room on its disk",
    );
  } finally {
    try {
      unlinkSync(draft);
    } catch {
      // The draft was not made.
    }
  }
  return key;
}
