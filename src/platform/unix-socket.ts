import { ptr } from "bun:ffi";
import { lstatSync, renameSync, rmSync } from "node:fs";
import {
  AF_UNIX,
  EAGAIN,
  errno,
  libc,
  POLLERR,
  POLLHUP,
  poll,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  unixName,
} from "./socket-calls.ts";

/**
 * Unix stream sockets that tell the uid of the other end (unix(7), SO_PEERCRED). Bun's own listener does not tell it, and accepts
 * without a limit. Nothing here blocks.
 */

const SO_PEERCRED = 17;
/** struct ucred: i32 pid, u32 uid, u32 gid (linux/socket.h). */
const UCRED_LENGTH = 12;
const SHUT_WR = 1;

/**
 * The uid of the process at the other end: for an accepted connection the one that called connect(2), for the client's side the
 * one that called listen(2). Null where the descriptor is no Unix socket.
 */
export function peerUid(descriptor: number): number | null {
  const credentials = new DataView(new ArrayBuffer(UCRED_LENGTH));
  const length = Uint32Array.of(UCRED_LENGTH);
  const failed = libc.getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, ptr(credentials.buffer), ptr(length));
  // For a descriptor that is no Unix socket, the pid is 0 and the uid -1.
  if (failed !== 0 || length[0] !== UCRED_LENGTH || credentials.getInt32(0, true) === 0) return null;
  return credentials.getUint32(4, true);
}

/** The connections whose other end is closed, by one poll(2) for all of them. */
export function hungUp(descriptors: readonly number[]): Set<number> {
  // poll(2) reports hang-ups and errors even where no event is asked for.
  const events = poll(descriptors, 0, 0);
  return new Set(descriptors.filter((_, index) => ((events[index] ?? 0) & (POLLERR | POLLHUP)) !== 0));
}

/** Shuts down our sending direction: the other side reads to the end of what was sent. */
export const endSending = (descriptor: number): void => void libc.shutdown(descriptor, SHUT_WR);

export const closeDescriptor = (descriptor: number): void => void libc.close(descriptor);

/** Whether somebody listens at a path. Where the queue is full, somebody does (unix(7), EAGAIN). */
export function isListenedAt(path: string): boolean {
  const address = unixName(path);
  if (address === null) return false;
  const descriptor = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return false;
  const connected = libc.connect(descriptor, ptr(address), address.length) === 0 || errno() === EAGAIN;
  libc.close(descriptor);
  return connected;
}

/** A listening Unix socket at a path. */
export class UnixListener {
  readonly #descriptor: number;
  readonly #path: string;
  readonly #inode: number;

  /**
   * Replaces whatever is at the path, in one step. Nobody but this process's account and root may be able to write into the
   * directory.
   *
   * @param options.mode permissions of the socket: who may write may connect.
   * @param options.backlog connections that may wait to be accepted.
   * @throws Error where it cannot be made.
   */
  constructor(options: { path: string; mode: number; backlog: number }) {
    const draft = `${options.path}.new`;
    const address = unixName(draft);
    if (address === null) throw new Error(`${draft} is too long for a socket`);
    rmSync(draft, { force: true });
    this.#descriptor = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (this.#descriptor < 0) throw new Error("no socket can be made");
    this.#path = options.path;
    try {
      // bind(2) gives it the mode, by the umask. chmod(2) would follow a link that the directory's owner puts in its place.
      const umask = process.umask(0o777 & ~options.mode);
      const bound = libc.bind(this.#descriptor, ptr(address), address.length);
      process.umask(umask);
      if (bound !== 0) throw new Error(`no socket can be made at ${draft}`);
      if (libc.listen(this.#descriptor, options.backlog) !== 0)
        throw new Error(`nothing can listen at ${draft}`);
      this.#inode = lstatSync(draft).ino;
      renameSync(draft, options.path);
    } catch (error) {
      libc.close(this.#descriptor);
      rmSync(draft, { force: true });
      throw error;
    }
  }

  /** The next connection, with the uid of the process that made it; null where none waits. The caller closes the descriptor. */
  accept(): { readonly descriptor: number; readonly uid: number } | null {
    for (;;) {
      const descriptor = libc.accept4(this.#descriptor, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (descriptor < 0) return null;
      const uid = peerUid(descriptor);
      if (uid !== null) return { descriptor, uid };
      libc.close(descriptor);
    }
  }

  /** Stops listening, and removes the socket where it is still this one. */
  close(): void {
    libc.close(this.#descriptor);
    try {
      if (lstatSync(this.#path).ino === this.#inode) rmSync(this.#path);
    } catch {
      // It is gone already.
    }
  }
}
