import { writeSync } from "node:fs";
import { POLLOUT, pollOne } from "./socket-calls.ts";

/**
 * Writes a whole text, and waits where the other end takes no more for now: a pipe or a terminal may not block, because whoever else
 * has it open has set O_NONBLOCK (open(2)). Bun's process.stdout then keeps the rest in memory, and it is lost where the process ends at once.
 *
 * @param write as node:fs has it; for a test.
 * @returns null where all is written, else the name of the error: `ENOSPC`, `EPIPE`.
 */
export function writeAll(
  descriptor: number,
  text: string,
  write: (descriptor: number, bytes: Uint8Array, offset: number) => number = writeSync,
): string | null {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; ) {
    try {
      at += write(descriptor, bytes, at);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? "unknown";
      if (code === "EAGAIN") pollOne(descriptor, POLLOUT, -1);
      else if (code !== "EINTR") return code;
    }
  }
  return null;
}
