import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
} from "node:fs";
import { z } from "zod";
import { ImdsProxyError } from "../errors.ts";
import { replaceFile } from "../platform/replace-file.ts";

/**
 * What a node keeps of the fleet's object: its last good copy (config/load.ts has the path), and what the last poll found. Root
 * writes both; the service's group reads them.
 */

const MODE = 0o640;
const MOST_STATE_BYTES = 64 * 1024;

const stateSchema = z.strictObject({
  /** When the last poll ended: milliseconds since the epoch. */
  checkedAtMs: z.number(),
  /** When S3 last gave the object that is here, or said that it has not changed; null: never. */
  succeededAtMs: z.number().nullable(),
  /** When the object was last sent whole. */
  fullAtMs: z.number().nullable(),
  /** The entity tag of the copy with this hash. */
  etag: z.string().nullable(),
  /** The object that was taken last. No lower serial is taken, even where the copy is lost. */
  taken: z.strictObject({ fleet: z.string(), serial: z.number(), hash: z.string() }).nullable(),
  /** What was wrong at the last poll; null where nothing was. */
  problem: z.strictObject({ what: z.string(), remedy: z.string().nullable() }).nullable(),
});

/** What the last poll found. */
export type PollState = z.output<typeof stateSchema>;

const statePath = (directory: string): string => `${directory}/state.json`;

/** Null where there was no poll yet, or where the file is not as this version writes it. */
export function readPollState(directory: string): PollState | null {
  try {
    const descriptor = openSync(
      statePath(directory),
      constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW,
    );
    try {
      const found = fstatSync(descriptor);
      if (!found.isFile() || found.size > MOST_STATE_BYTES) return null;
      return stateSchema.parse(JSON.parse(readFileSync(descriptor, "utf8")));
    } finally {
      closeSync(descriptor);
    }
  } catch {
    return null;
  }
}

/** @throws what the file system says. */
export const writePollState = (directory: string, state: PollState, gid: number): void =>
  replaceFile(statePath(directory), Buffer.from(`${JSON.stringify(state)}\n`), { mode: MODE, gid });

/** Replaces the copy. @throws what the file system says; then the former copy is still there. */
export const writeCopy = (path: string, bytes: Uint8Array, gid: number): void =>
  replaceFile(path, bytes, { mode: MODE, gid });

/** Makes the directory where it is absent. @throws ImdsProxyError `unsafe` where others than its owner could write in it. */
export function requireDirectory(path: string): void {
  // Not subject to the umask.
  if (mkdirSync(path, { recursive: true }) !== undefined) chmodSync(path, 0o755);
  const found = lstatSync(path);
  if (found.isDirectory() && found.uid === process.geteuid?.() && (found.mode & 0o022) === 0) return;
  throw new ImdsProxyError(
    "unsafe",
    `the fleet's object cannot be kept in ${path}: it is no directory that root alone can write (uid ${found.uid}, mode ${(found.mode & 0o7777).toString(8)})`,
    `see what is in it, then: rm -r ${path}; the next poll makes it anew`,
  );
}
