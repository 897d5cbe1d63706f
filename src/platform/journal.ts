import { ptr } from "bun:ffi";
import { fstatSync } from "node:fs";
import {
  AF_UNIX,
  libc,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  unixName,
} from "./socket-calls.ts";

/** The socket on which journald takes entries in its native protocol (systemd.io, "Native Journal Protocol"). */
export const JOURNAL_SOCKET = "/run/systemd/journal/socket";

const STDERR = 2;

/**
 * Whether standard error leads to the journal. JOURNAL_STREAM has the device and inode of the stream that systemd opened
 * (systemd.exec(5)). They are compared, because a child that was given another standard error still has the variable.
 */
export function standardErrorIsJournal(stream: string | undefined = process.env["JOURNAL_STREAM"]): boolean {
  if (stream === undefined) return false;
  try {
    const { dev, ino } = fstatSync(STDERR, { bigint: true });
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

/** Sends entries to journald. It never blocks and buffers nothing: the caller writes elsewhere what cannot be sent at once. */
export class JournalSocket {
  readonly #address: Uint8Array;
  #descriptor = -1;

  /** @param path at most 107 bytes (unix(7)). */
  constructor(path: string = JOURNAL_SOCKET) {
    const address = unixName(path);
    if (address === null) throw new RangeError("the path of a Unix socket has at most 107 bytes");
    this.#address = address;
  }

  /**
   * Sends one entry. The address is looked up each time, so that a restarted journald is found.
   *
   * @returns false where it was not sent: there is no journald, its queue is full, or the entry exceeds the send buffer.
   */
  send(entry: Uint8Array): boolean {
    if (this.#descriptor < 0) this.#descriptor = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (this.#descriptor < 0 || entry.length === 0) return false;
    const sent = libc.sendto(
      this.#descriptor,
      ptr(entry),
      entry.length,
      MSG_DONTWAIT | MSG_NOSIGNAL,
      ptr(this.#address),
      this.#address.length,
    );
    return Number(sent) === entry.length;
  }

  close(): void {
    if (this.#descriptor >= 0) libc.close(this.#descriptor);
    this.#descriptor = -1;
  }
}
