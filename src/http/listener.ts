import type { SocketHandler, TCPSocketListener } from "bun";
import { after } from "../platform/clock.ts";
import { ListeningSocket } from "../platform/libc.ts";

/**
 * A listening socket whose connections are accepted in measured portions.
 *
 * Bun accepts until the queue is empty. A user who connects faster than we accept keeps it from ever being empty: then
 * nobody's request is read any more, for as long as they like. So the socket is our own, Bun has a descriptor of it, and is
 * relieved of that after each portion (its loop ends where the listener was closed in `open`; accept loop in
 * bun-usockets, loop.c); the queue stays, and everything else has its turn before the next portion.
 */

/** Connections that are accepted before anybody else has a turn, at least; about 3 milliseconds. */
const PORTION = 64;
/** Milliseconds that accepting may take at a time where everything else took as long. */
const MAX_ACCEPT_MS = 50;
/** Bytes that the kernel keeps of a client's and of ours: a head has no more, and our answers have 2 KiB. */
const RECEIVE_BYTES = 8_192;
const SEND_BYTES = 16_384;
/** Milliseconds until the next try where there is no descriptor left to accept with. */
const AGAIN_MS = 50;

export interface ListenerOptions<Data> {
  /** 4 or 16 bytes. */
  readonly address: Uint8Array;
  readonly port: number;
  /** Connections that may wait to be accepted. */
  readonly backlog: number;
  readonly sharePort: boolean;
  /** A descriptor that listens there already; null where there is none. */
  readonly inherited: number | null;
  readonly handlers: SocketHandler<Data>;
  readonly monotonicMs: () => number;
  /** Told each time that accepting could not begin again, with the error's code: `EMFILE` where no descriptor is left. */
  readonly onFailure: (code: string) => void;
  /** Begins to accept from a descriptor of the socket, which is its own to close, also where it throws; default Bun.listen. */
  readonly accept?: (descriptor: number, handlers: SocketHandler<Data>) => TCPSocketListener<Data>;
}

function acceptByBun<Data>(descriptor: number, handlers: SocketHandler<Data>): TCPSocketListener<Data> {
  return Bun.listen<Data>({
    // bun-types does not know it; Bun takes the descriptor, and closes it with the listener.
    ...({ fd: descriptor } as unknown as { hostname: string; port: number }),
    // A caller may say that it has sent everything and still wait for the answer.
    allowHalfOpen: true,
    socket: handlers,
  });
}

export class Listener<Data> {
  readonly #options: ListenerOptions<Data>;
  readonly #socket: ListeningSocket;
  readonly #handlers: SocketHandler<Data>;
  #accepting: TCPSocketListener<Data> | null = null;
  #accepted = 0;
  /** When this portion began, null before its first connection; and when the last one ended. */
  #beganMs: number | null = null;
  #endedMs = 0;
  #allowedMs = 0;
  #closed = false;
  #failing = false;

  /** @throws ListenError (platform/libc.ts), also where the first accept cannot begin: nothing listens then. */
  constructor(options: ListenerOptions<Data>) {
    this.#options = options;
    this.#socket = new ListeningSocket({ ...options, receiveBytes: RECEIVE_BYTES, sendBytes: SEND_BYTES });
    const { open } = options.handlers;
    this.#handlers = {
      ...options.handlers,
      open: (socket) => {
        this.#count();
        return open?.(socket);
      },
    };
    try {
      this.#accept();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** False from an accept that could not begin until one does. */
  get accepting(): boolean {
    return !this.#failing;
  }

  /** The listening socket, for systemd to keep. */
  get handle(): number {
    return this.#socket.handle;
  }

  /** Accepts nothing more; connections that wait in the queue are reset, unless somebody else has the socket too. */
  close(): void {
    this.#closed = true;
    this.#accepting?.stop(false);
    this.#accepting = null;
    this.#socket.close();
  }

  #accept(): void {
    const { accept = acceptByBun<Data> } = this.#options;
    this.#accepting = accept(this.#socket.descriptor(), this.#handlers);
    this.#socket.restoreBacklog();
    this.#failing = false;
  }

  readonly #acceptAgain = (): void => {
    if (this.#closed) return;
    try {
      this.#accept();
    } catch (error) {
      this.#failing = true;
      this.#options.onFailure((error as NodeJS.ErrnoException).code ?? "unknown");
      after(AGAIN_MS, this.#acceptAgain);
    }
  };

  #count(): void {
    const now = this.#options.monotonicMs();
    if (this.#beganMs === null) {
      this.#beganMs = now;
      // As long as everything else took since the last portion: each half of the time, whatever there is to do.
      this.#allowedMs = Math.min(MAX_ACCEPT_MS, now - this.#endedMs);
    }
    if (++this.#accepted < PORTION || now - this.#beganMs < this.#allowedMs) return;
    this.#accepted = 0;
    this.#beganMs = null;
    this.#endedMs = now;
    this.#accepting?.stop(false);
    this.#accepting = null;
    setImmediate(this.#acceptAgain);
  }
}
