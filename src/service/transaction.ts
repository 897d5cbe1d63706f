import {
  chmodSync,
  chownSync,
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { ImdsProxyError } from "../errors.ts";

/**
 * Several files that change together, or not at all: an executable, its configuration and its units must not be of two
 * versions after a power cut. Each is written beside its place first; then a journal names them all; then they are moved.
 * Before the journal is there, nothing has happened; once it is, `recover` finishes the move.
 */

/** A file as it is to be. */
export interface FileChange {
  readonly path: string;
  /** The text, or the file that is to be copied. */
  readonly content: { readonly text: string } | { readonly copyOf: string };
  readonly mode: number;
  /** True where the service's group owns it, so that the service can read it; default root's group. */
  readonly forService?: boolean;
}

const SUFFIX = ".imdsproxy-new";

/** Where a file waits until everything is ready. */
export const stagedPath = (path: string): string => `${path}${SUFFIX}`;

function sync(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Writes every file beside its place, down to the disk. Throws where one cannot be written, and leaves none then.
 *
 * @returns what takes it back.
 */
export function stage(changes: readonly FileChange[]): () => void {
  const made = [...new Set(changes.map(({ path }) => dirname(path)))].filter((path) => !existsSync(path));
  const undo = () => {
    for (const { path } of changes) {
      try {
        rmSync(stagedPath(path), { force: true });
      } catch {
        // What could not be written, for whatever stands in its way.
      }
    }
    for (const directory of made) rmSync(directory, { recursive: true, force: true });
  };
  try {
    for (const { path, content, mode } of changes) {
      const staged = stagedPath(path);
      mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
      // Never through a link, and never into a file that somebody else has open.
      rmSync(staged, { force: true });
      if ("text" in content) writeFileSync(staged, content.text, { mode: 0o600, flag: "wx" });
      else copyFileSync(content.copyOf, staged);
      chownSync(staged, 0, 0);
      chmodSync(staged, mode);
      sync(staged);
    }
    return undo;
  } catch (error) {
    undo();
    const { code, path } = error as NodeJS.ErrnoException;
    if (code === undefined) throw error;
    throw new ImdsProxyError(
      "command-failed",
      code === "ENOSPC"
        ? `the disk is full: cannot write ${path ?? changes[0]?.path ?? "a file"}; nothing was changed`
        : `cannot write ${path ?? "a file"} (${code}); nothing was changed`,
      code === "ENOSPC" ? "make 250 MB of room below /usr/local/bin and run setup again" : null,
    );
  }
}

/** Gives the staged files that the service reads to its group. */
export function grant(changes: readonly FileChange[], gid: number): void {
  for (const { path, mode, forService } of changes) {
    if (forService !== true) continue;
    chownSync(stagedPath(path), 0, gid);
    chmodSync(stagedPath(path), mode);
  }
}

/** Moves everything that was staged into place. */
export function commit(journal: string, changes: readonly FileChange[]): void {
  const paths = changes.map(({ path }) => path);
  const staged = stagedPath(journal);
  writeFileSync(staged, JSON.stringify(paths), { mode: 0o600 });
  sync(staged);
  renameSync(staged, journal);
  sync(dirname(journal));
  move(journal, paths);
}

/** Takes away what a change that was cut short before its commit wrote beside these paths. */
export function discard(paths: readonly string[]): void {
  for (const path of paths) rmSync(stagedPath(path), { force: true });
}

/**
 * Finishes a change that was cut short; without one, does nothing.
 *
 * @returns the files that it put into place.
 */
export function recover(journal: string): readonly string[] {
  if (!existsSync(journal)) return [];
  let paths: unknown;
  try {
    paths = JSON.parse(readFileSync(journal, "utf8"));
  } catch {
    // It is renamed into place when it is whole and on the disk, so this was not written here.
    throw new ImdsProxyError(
      "unsafe",
      `${journal} is not a journal of setup`,
      `look at it, remove it, run setup again`,
    );
  }
  if (!Array.isArray(paths) || !paths.every((path) => typeof path === "string")) {
    throw new ImdsProxyError(
      "unsafe",
      `${journal} is not a journal of setup`,
      `look at it, remove it, run setup again`,
    );
  }
  return move(journal, paths);
}

function move(journal: string, paths: readonly string[]): readonly string[] {
  const moved = paths.filter((path) => existsSync(stagedPath(path)));
  for (const path of moved) renameSync(stagedPath(path), path);
  for (const directory of new Set(paths.map((path) => dirname(path)))) sync(directory);
  rmSync(journal, { force: true });
  sync(dirname(journal));
  return moved;
}
