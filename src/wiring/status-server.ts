import { mkdirSync } from "node:fs";
import type { Subject } from "../identity/caller.ts";
import { every } from "../platform/clock.ts";
import { writeWithoutWaiting } from "../platform/libc.ts";
import { closeDescriptor, endSending, hungUp, UnixListener } from "../platform/unix-socket.ts";
import { ROOT_SOCKET, STATUS_DIRECTORY, USERS_SOCKET } from "../telemetry/status-document.ts";

/**
 * Serves the status documents. There is no request: who connects is answered at once, by the uid that the kernel gives, and reads to
 * the end. So nothing that a user sends is read.
 *
 * It must not slow the requests of the metadata service, whatever users do with it. So it looks ten times a second whether anybody
 * has connected, takes a bounded number then, and holds a bounded number of connections. One that has its answer is held until its
 * client closes it, or until all places are taken and another user asks: what a client has not read is in the kernel's memory, and this is
 * what bounds it. It stays there for the client to read after this side is closed, so that whoever has to give way loses nothing.
 */

/** Milliseconds between two looks. */
const LOOK_MS = 100;
/** Connections that are taken at one look; those over a user's share are closed at once, which costs microseconds. */
const PORTION = 128;
/** Connections that wait to be taken. */
const BACKLOG = 256;
/** Connections that are held: of one user, of all users, and of root. */
const PER_USER = 4;
const ALL_USERS = 64;
const OF_ROOT = 8;
/** Milliseconds for which a user's document is given again. */
const KEEP_MS = 1_000;
/** Milliseconds within which root's client must have read a long answer. */
const WRITE_MS = 10_000;

/** Who asks, by the kernel. */
export type Asker =
  | { readonly kind: "root" }
  | { readonly kind: "user"; readonly uid: number; readonly share: Subject };

/** A listener; {@link UnixListener} is the real one. */
export type StatusListener = Pick<UnixListener, "accept" | "close">;

/** The calls of the kernel for connections, so that a test can stand in for them. */
export interface Connections {
  /** As writeWithoutWaiting. */
  write(descriptor: number, bytes: Uint8Array): number;
  endSending(descriptor: number): void;
  hungUp(descriptors: readonly number[]): Set<number>;
  close(descriptor: number): void;
}

const KERNEL: Connections = {
  write: writeWithoutWaiting,
  endSending,
  hungUp,
  close: closeDescriptor,
};

export interface StatusServerOptions {
  /** The document for whoever asks. */
  readonly document: (asker: Asker) => Promise<object>;
  readonly shareOfUid: (uid: number) => Subject;
  /** Milliseconds of a monotonic clock. */
  readonly nowMs: () => number;
  /** Default: sockets at ROOT_SOCKET and USERS_SOCKET. */
  readonly listen?: () => { readonly root: StatusListener; readonly users: StatusListener };
  readonly connections?: Connections;
}

interface Held {
  readonly share: Subject | null;
  /** When the first of the answer was written; until then, when it connected. */
  sinceMs: number;
  /** What is not written yet; null while it is not known. */
  rest: Uint8Array | null;
}

function listenAtPaths() {
  const umask = process.umask(0o022);
  mkdirSync(STATUS_DIRECTORY, { recursive: true, mode: 0o755 });
  process.umask(umask);
  const root = new UnixListener({ path: ROOT_SOCKET, mode: 0o600, backlog: BACKLOG });
  try {
    return { root, users: new UnixListener({ path: USERS_SOCKET, mode: 0o666, backlog: BACKLOG }) };
  } catch (error) {
    root.close();
    throw error;
  }
}

export class StatusServer {
  readonly #options: StatusServerOptions;
  readonly #kernel: Connections;
  readonly #root: StatusListener;
  readonly #users: StatusListener;
  readonly #held = new Map<number, Held>();
  /** Of users, by uid; those that were made since `#madeSinceMs`. */
  readonly #made = new Map<number, Promise<object>>();
  #madeSinceMs = 0;

  /** @throws Error where the sockets cannot be made. */
  constructor(options: StatusServerOptions) {
    this.#options = options;
    this.#kernel = options.connections ?? KERNEL;
    const { root, users } = (options.listen ?? listenAtPaths)();
    this.#root = root;
    this.#users = users;
  }

  /** Looks at intervals until the returned function is called, which closes everything. */
  start(): () => void {
    const stop = every(LOOK_MS, () => this.look());
    return () => {
      stop();
      this.#root.close();
      this.#users.close();
      for (const descriptor of [...this.#held.keys()]) this.#close(descriptor);
    };
  }

  /** Connections that are held. */
  get held(): number {
    return this.#held.size;
  }

  /** One look: ends what has ended, goes on writing, and takes who has connected. */
  look(): void {
    for (const descriptor of this.#kernel.hungUp([...this.#held.keys()])) this.#close(descriptor);
    const nowMs = this.#options.nowMs();
    for (const [descriptor, held] of [...this.#held]) {
      if (held.rest === null || held.rest.length === 0) continue;
      if (nowMs - held.sinceMs > WRITE_MS) this.#close(descriptor);
      else this.#write(descriptor, held);
    }
    this.#take(this.#root);
    this.#take(this.#users);
  }

  #take(listener: StatusListener): void {
    for (let taken = 0; taken < PORTION; taken++) {
      const connection = listener.accept();
      if (connection === null) return;
      const { descriptor, uid } = connection;
      const share = uid === 0 ? null : this.#options.shareOfUid(uid);
      // Who connects to root's socket is root or this service; the latter gets what a user gets.
      if (!this.#makesRoom(share)) {
        this.#kernel.close(descriptor);
        continue;
      }
      const held: Held = { share, sinceMs: this.#options.nowMs(), rest: null };
      this.#held.set(descriptor, held);
      void this.#answer(descriptor, held, share === null ? { kind: "root" } : { kind: "user", uid, share });
    }
  }

  /** Whether there is a place; where all users' are taken, the user's connection that was taken first and has its whole answer gives way. */
  #makesRoom(share: Subject | null): boolean {
    let own = 0;
    let users = 0;
    let answered: number | null = null;
    // In the order in which they were taken.
    for (const [descriptor, held] of this.#held) {
      if (held.share === share) own++;
      if (held.share === null) continue;
      users++;
      if (held.rest?.length === 0) answered ??= descriptor;
    }
    if (share === null) return own < OF_ROOT;
    if (own >= PER_USER) return false;
    if (users < ALL_USERS) return true;
    if (answered === null) return false;
    this.#close(answered);
    return true;
  }

  async #answer(descriptor: number, held: Held, asker: Asker): Promise<void> {
    let text: string;
    try {
      text = JSON.stringify(await this.#document(asker));
    } catch {
      // Without an answer the client says that the proxy does not tell.
      text = "";
    }
    // It may have ended meanwhile, and another connection may have its number.
    if (this.#held.get(descriptor) !== held) return;
    if (text === "") {
      this.#close(descriptor);
      return;
    }
    held.rest = Buffer.from(text);
    held.sinceMs = this.#options.nowMs();
    this.#write(descriptor, held);
  }

  #document(asker: Asker): Promise<object> {
    if (asker.kind === "root") return this.#options.document(asker);
    const nowMs = this.#options.nowMs();
    if (nowMs - this.#madeSinceMs >= KEEP_MS) {
      this.#made.clear();
      this.#madeSinceMs = nowMs;
    }
    const made = this.#made.get(asker.uid) ?? this.#options.document(asker);
    this.#made.set(asker.uid, made);
    return made;
  }

  #write(descriptor: number, held: Held): void {
    if (held.rest === null) return;
    const written = this.#kernel.write(descriptor, held.rest);
    if (written < 0) {
      this.#close(descriptor);
      return;
    }
    held.rest = held.rest.subarray(written);
    if (held.rest.length === 0) this.#kernel.endSending(descriptor);
  }

  #close(descriptor: number): void {
    this.#held.delete(descriptor);
    this.#kernel.close(descriptor);
  }
}
