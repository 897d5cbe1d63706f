import { closeSync, openSync, readSync } from "node:fs";

/** Bytes that are read at once: a limit that is far above what a file has costs no memory. */
const PIECE_BYTES = 65_536;

/**
 * The beginning of a file whose length others decide; it may be a pipe.
 *
 * @param flags as of open(2); default to read.
 * @throws the error of the file system.
 */
export function beginningOfFile(path: string, mostBytes: number, flags: number | "r" = "r"): Buffer {
  const descriptor = openSync(path, flags);
  try {
    const pieces: Buffer[] = [];
    for (let left = mostBytes; left > 0; ) {
      const piece = Buffer.alloc(Math.min(left, PIECE_BYTES));
      const read = readSync(descriptor, piece, 0, piece.length, null);
      if (read === 0) break;
      pieces.push(piece.subarray(0, read));
      left -= read;
    }
    return Buffer.concat(pieces);
  } finally {
    closeSync(descriptor);
  }
}
