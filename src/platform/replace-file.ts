import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fsyncSync,
  openSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";

/**
 * Replaces a file atomically: a reader finds the old bytes or the new ones, even after a power cut. The new bytes are written to
 * a draft beside the file (`PATH.new`), which is renamed once it is on the disk. A draft that an interrupted call left is
 * replaced.
 *
 * @param options.gid the file's group; its owner is whoever runs this.
 * @throws the error of the file system. Then the old file is there and no draft; only where the directory could not be synced is
 *   the new file there.
 */
export function replaceFile(
  path: string,
  bytes: Uint8Array,
  options: { readonly mode: number; readonly gid: number },
): void {
  const draft = `${path}.new`;
  rmSync(draft, { force: true });
  try {
    const descriptor = openSync(
      draft,
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
      0o600,
    );
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(descriptor, bytes, at);
      fchownSync(descriptor, process.geteuid?.() ?? 0, options.gid);
      // Whatever the umask is.
      fchmodSync(descriptor, options.mode);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
  const directory = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}
