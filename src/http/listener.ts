import type { SocketHandler, TCPSocketListener } from "bun";
import { after, systemClock } from "../platform/clock.ts";
import { ListeningSocket, socketRefusal } from "../platform/listening-socket.ts";

/**
 * A listening socket whose connections are accepted in portions.
 *
 * Bun accepts until the queue is empty. A user who connects faster than we accept keeps the queue from ever being empty, and
 * no request is read in the meantime. So the socket is our own, and Bun gets a duplicate of its descriptor, whose listener is
 * stopped after each portion: the accept loop ends when the listener is closed in `open` (bun-usockets, loop.c). The queue
 * stays with our socket, and the rest of the event loop runs before the next portion.
 */

/** The least number of connections of a portion; they take about 3 milliseconds. */
const PORTION = 64;
/** The longest portion in milliseconds. A portion may take as long as everything else took since the last one. */
const MAX_ACCEPT_MS = 50;
/** Socket buffers in bytes: a head has 8,192 at most, and an answer about 2 KiB. */
const RECEIVE_BYTES = 8_192;
const SEND_BYTES = 16_384;
/** Milliseconds until the next attempt where accepting failed, because no descriptor is left. */
const AGAIN_MS = 50;
/** Milliseconds between two looks at the queue. */
const LOOK_MS = 1_000;

export interface ListenerOptions<Data> {
  /** 4 or 16 bytes. */
  readonly address: Uint8Array;
  readonly port: number;
  /** Connections that may wait to be accepted. */
  readonly backlog: number;
  readonly sharePort: boolean;
  /** A descriptor that listens there already and is taken over; null where there is none. */
  readonly inherited: number | null;
  readonly handlers: SocketHandler<Data>;
  readonly monotonicMs: () => number;
  /** Called each time that accepting fails, with the error's code: `EMFILE` where no descriptor is left. */
  readonly onFailure: (code: string) => void;
  /** Begins to accept from a descriptor of the socket, which is its own to close, also where it throws; default Bun.listen. */
  readonly accept?: (descriptor: number, handlers: SocketHandler<Data>) => TCPSocketListener<Data>;
  /** Milliseconds between two looks at whether a connection waits that is not accepted; default 1,000. */
  readonly lookMs?: number;
}

function acceptByBun<Data>(descriptor: number, handlers: SocketHandler<Data>): TCPSocketListener<Data> {
  return Bun.listen<Data>({
    // Not in bun-types: Bun takes over the descriptor, and closes it with the listener.
    ...({ fd: descriptor } as unknown as { hostname: string; port: number }),
    // A client may close its side after its request and still wait for the answer.
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
  /** When this portion began, null before its first connection; and when the last portion ended. */
  #beganMs: number | null = null;
  #endedMs = 0;
  #allowedMs = 0;
  #closed = false;
  /** Whether Bun could not begin to accept. */
  #failing = false;
  /** Whether Bun listens and accepts nothing, though a connection waits. */
  #stalled = false;
  /** Whether a connection waited at the last look, and none was accepted since. */
  #unmoved = false;
  #stopLooking = () => {};

  /** @throws ListenError (platform/listening-socket.ts), also where the first accept cannot begin: nothing listens then. */
  constructor(options: ListenerOptions<Data>) {
    this.#options = options;
    this.#socket = new ListeningSocket({ ...options, receiveBytes: RECEIVE_BYTES, sendBytes: SEND_BYTES });
    const { open } = options.handlers;
    this.#handlers = {
      ...options.handlers,
      open: (socket) => {
        this.#unmoved = this.#stalled = false;
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
    this.#lookLater();
  }

  /** False while nothing is accepted. */
  get accepting(): boolean {
    return !this.#failing && !this.#stalled;
  }

  /** The listening socket, for systemd to keep. */
  get handle(): number {
    return this.#socket.handle;
  }

  /** Stops accepting. The kernel resets the connections in the queue, unless another process has the socket too. */
  close(): void {
    this.#closed = true;
    this.#stopLooking();
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

  #lookLater(): void {
    this.#stopLooking = systemClock.schedule(this.#options.lookMs ?? LOOK_MS, () => this.#look());
  }

  /**
   * Bun passes over an error of accept(2), as where no descriptor is left, and tries again without end. So the queue tells: the event
   * loop has run between two looks, and what waited at the first would have been accepted by the second.
   */
  #look(): void {
    this.#lookLater();
    const waits = this.#socket.hasWaiting;
    this.#stalled = waits && this.#unmoved;
    this.#unmoved = waits;
    if (this.#stalled && !this.#failing) this.#options.onFailure(socketRefusal() ?? "unknown");
  }

  #count(): void {
    const now = this.#options.monotonicMs();
    if (this.#beganMs === null) {
      this.#beganMs = now;
      // As long as everything else took since the last portion, so that accepting gets half of the time at most.
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
