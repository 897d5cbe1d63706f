import { writeSync } from "node:fs";
import { POLLOUT, pollOne } from "./socket-calls.ts";

/**
 * Writes a whole text, and waits while the other end takes no more. A pipe or a terminal may be non-blocking, because another
 * process that has it open set O_NONBLOCK (open(2)). Bun's process.stdout then keeps the rest in memory, and loses it where the
 * process exits at once.
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
