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
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { ImdsProxyError } from "../errors.ts";

/**
 * Replaces several files atomically: after a power cut, the executable, its configuration and its units must not be of two
 * versions. Each file is staged beside its place; then a journal names them all (the commit); then they are renamed into place.
 * Until the journal exists, nothing has changed; once it does, `recover` completes the renames.
 */

/** A file to be written. */
export interface FileChange {
  readonly path: string;
  /** The text, or the file that is to be copied. */
  readonly content: { readonly text: string } | { readonly copyOf: string };
  readonly mode: number;
  /** True where the service's group owns it, so that the service can read it; default root's group. */
  readonly forService?: boolean;
}

const SUFFIX = ".imdsproxy-new";

/** The path at which a file is staged. */
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
 * Stages every file, with fsync(2). Throws where one cannot be written; then none is left.
 *
 * @returns a function that removes the staged files.
 */
export function stage(changes: readonly FileChange[]): () => void {
  const made = [...new Set(changes.map(({ path }) => dirname(path)))].filter((path) => !existsSync(path));
  const undo = () => {
    for (const { path } of changes) {
      try {
        rmSync(stagedPath(path), { force: true });
      } catch {
        // It could not be written either, so there is nothing to remove.
      }
    }
    for (const directory of made) rmSync(directory, { recursive: true, force: true });
  };
  try {
    for (const { path, content, mode, forService } of changes) {
      const staged = stagedPath(path);
      mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
      if (forService === true) letThrough(dirname(path));
      // A new file: never through a link, and never into a file that another process has open.
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
    const known = fileProblem(error);
    if (known === null) throw error;
    throw new ImdsProxyError(known.code, `${known.problem}; nothing was changed`, known.remedy);
  }
}

/** Lets the service through a directory that was made with a umask such as 077, by this or by hand. */
function letThrough(directory: string): void {
  const mode = statSync(directory).mode & 0o7777;
  if ((mode & 0o011) !== 0o011) chmodSync(directory, mode | 0o011);
}

/** An error of the file system as a message for an operator; null for any other error. */
export function fileProblem(error: unknown): ImdsProxyError | null {
  if (!(error instanceof Error) || error instanceof ImdsProxyError) return null;
  const { code, path, dest, syscall } = error as NodeJS.ErrnoException & { readonly dest?: string };
  if (code === undefined || syscall === undefined) return null;
  const where = dest ?? path ?? "a file";
  switch (code) {
    case "ENOSPC":
    case "EDQUOT":
      return new ImdsProxyError(
        "command-failed",
        `the disk is full: cannot write ${where}`,
        "make 250 MB of room below /usr/local/bin and run setup again",
      );
    case "EROFS":
      return new ImdsProxyError(
        "command-failed",
        `cannot change ${where}: its file system is read-only`,
        `see how it is mounted: findmnt -T ${dirname(where)}`,
      );
    default:
      return new ImdsProxyError(
        "command-failed",
        `cannot change ${where} (${code})`,
        `see what it is, and whether its disk works: ls -ld ${where}; dmesg | tail`,
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

/**
 * Writes the journal, then renames the staged files into place.
 *
 * @param onJournal called when the journal is there: from then on the change is completed, not undone. A rename that fails leaves journal
 *   and staged files, for {@link recover}.
 */
export function commit(journal: string, changes: readonly FileChange[], onJournal: () => void): void {
  const paths = changes.map(({ path }) => path);
  const staged = stagedPath(journal);
  writeFileSync(staged, JSON.stringify(paths), { mode: 0o600 });
  sync(staged);
  renameSync(staged, journal);
  sync(dirname(journal));
  onJournal();
  move(journal, paths);
}

/** Removes the staged files of a change that was interrupted before its commit. */
export function discard(paths: readonly string[]): void {
  // On a read-only file system unlink(2) fails also where there is nothing to remove.
  for (const path of paths.map(stagedPath)) if (existsSync(path)) rmSync(path, { force: true });
}

/**
 * Completes a change that was interrupted after its commit; does nothing where there is none.
 *
 * @returns the files that it put into place.
 */
export function recover(journal: string): readonly string[] {
  if (!existsSync(journal)) return [];
  let paths: unknown;
  try {
    paths = JSON.parse(readFileSync(journal, "utf8"));
  } catch {
    // A journal of ours is renamed into place once it is complete and synced: this file is not one.
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
