import type { Socket } from "bun";
import type { Caller, Subject } from "../identity/caller.ts";
import { systemClock } from "../platform/clock.ts";
import { type Answer, errorPage } from "./answer.ts";
import { EncodedAnswers } from "./encoded-answers.ts";
import { isBad, type Request } from "./request.ts";
import { RequestReader } from "./request-reader.ts";
import type { Reader, RequestSource, RoundRobin } from "./scheduling.ts";

/** The deadline of a head in milliseconds: from the accepted connection, and again from the head's first byte. */
const HEAD_MS = 5_000;
/** Milliseconds that a kept connection may wait for its next request. */
const IDLE_MS = 75_000;
/** Milliseconds that a client has to take an answer, and to close its side after the last one. */
const STALL_MS = 10_000;
/** Milliseconds that a client has to complete a request once the server stops. */
const STOPPING_MS = 1_000;
/** Bytes that are ignored after the last answer. A client that sends more does not read the answer, and is cut off. */
const MAX_IGNORED = 262_144;
const NOTHING = Buffer.alloc(0);

/** One for all connections. */
export const encodedAnswers = new EncodedAnswers();

/**
 * Answers requests. A promise is given only where something has to be waited for, because one costs as much as reading the
 * request (docs/benchmarks.md); it must not reject. `turnMs` is when the request's turn began, by the server's monotonic clock.
 */
export interface RequestHandler {
  handle(request: Request, caller: Caller, turnMs: number): Answer | Promise<Answer>;
}

/** What a connection needs of its server; one for all connections. */
export interface ConnectionHost {
  readonly handler: RequestHandler;
  /** The value of the header Server. */
  readonly serverName: string;
  /** Milliseconds of a monotonic clock, as far as deadlines need it: see {@link RoundRobin.roughMs}. */
  roughMs(): number;
  /** Puts a connection that has a whole request into its user's queue. {@link Connection.handleNext} is called in its turn. */
  enqueue(connection: Connection): void;
  /** Counts a read. Returns false where the user's budget is exceeded: {@link Connection.resumeReading} is called later. */
  spendRead(connection: Connection): boolean;
  /** Whether as many abandoned requests of the connection's user are being handled as may be. */
  isBusy(connection: Connection): boolean;
  /** The connection is closed while a request of it is being handled; and the answer to that request is there. */
  requestAbandoned(connection: Connection): void;
  abandonedRequestEnded(connection: Connection): void;
  /** A request was answered with this status and the handler does not see it. */
  turnedAway(connection: Connection, kind: "busy" | "malformed", status: number): void;
  closed(connection: Connection): void;
}

/**
 * The states of a connection, what each waits for, and what ends it besides. The deadline is that of the state.
 *
 * | state       | waits for                                           | deadline                | then                           |
 * | ----------- | --------------------------------------------------- | ----------------------- | ------------------------------ |
 * | `reading`   | the rest of a head, the first one also from nothing | 5 s, stopping 1 s       | `queued`                       |
 * | `idle`      | the next request of a kept connection               | 75 s                    | `reading` or `queued`          |
 * | `queued`    | its turn ({@link Connection.handleNext})            | none                    | `handling`; 4xx: as `writing`  |
 * | `handling`  | the handler                                         | none, the handler's own | as `writing`                   |
 * | `writing`   | room for the rest of an answer                      | 10 s                    | `idle`, `reading`, `queued`; after the last answer `lingering`; `closed` where the client asked for that and nothing of it is left |
 * | `lingering` | the client to close: a reset could overtake the answer | 10 s, 256 KiB        | `closed`                       |
 * | `closed`    | nothing                                             |                         |                                |
 *
 * In any state but `closed`:
 * - The socket closes, or writing fails, or the deadline is over: `closed`.
 * - The client sends: a new head in `reading` and `idle`; ignored in `lingering`. In the other states it is a pipelined
 *   request, which is kept, and the socket is not read any further until that request is needed.
 * - The client has sent all (half-close): `lingering` from `reading` and `idle`, where no request can become whole any more;
 *   `closed` from `lingering`; in the other states the whole requests that are here are answered first.
 * - The server stops: `lingering` from `idle`; in the other states the next answer is the last one.
 */
export type ConnectionState = "reading" | "idle" | "queued" | "handling" | "writing" | "lingering" | "closed";

/** Reasons not to read from the socket, as bits: it is paused while there is one. */
const OVER_BUDGET = 1;
const PIPELINED = 2;

/** One connection: requests in, one after the other, and answers out. test/http/connection.test.ts has each state x event. */
export class Connection implements RequestSource, Reader {
  /** Whose limits it counts towards. */
  readonly user: Subject;
  readonly #socket: Socket<Connection | undefined>;
  /** Who is at the other end. */
  readonly caller: Caller;
  readonly #host: ConnectionHost;
  readonly #requests = new RequestReader();
  #state: ConnectionState = "reading";
  #deadlineMs: number;
  #pauseReasons = 0;
  /** The part of an answer that the socket has not taken. */
  #unsent: Buffer = NOTHING;
  /** Whether the connection ends after the next answer, or after the one that is being written. */
  #isLastAnswer = false;
  /** Whether the client has asked for the connection to be closed after the answer, and so sends nothing more. */
  #isCloseAsked = false;
  /** Whether the client has sent all that it will send. */
  #inputEnded = false;
  /** Bytes received after the last answer. */
  #ignored = 0;

  constructor(socket: Socket<Connection | undefined>, caller: Caller, user: Subject, host: ConnectionHost) {
    this.#socket = socket;
    this.caller = caller;
    this.user = user;
    this.#host = host;
    this.#deadlineMs = host.roughMs() + HEAD_MS;
  }

  get state(): ConnectionState {
    return this.#state;
  }

  /**
   * Whether it can be closed to make room for another, and how soon: the lowest number first, null for never, because a
   * request of it is under way. 0: its last answer is sent, and its client reads that and the end all the same (SOCK_DONE in
   * tcp_recvmsg(), net/ipv4/tcp.c). 1: it waits for a next request. 2: a request may be on its way, or in the socket. 3: its client
   * does not take an answer, which a client can do with every connection that it may have.
   */
  get evictionOrder(): 0 | 1 | 2 | 3 | null {
    switch (this.#state) {
      case "lingering":
        return 0;
      case "idle":
        return 1;
      case "reading":
        return 2;
      case "writing":
        return 3;
      default:
        return null;
    }
  }

  /** Event of the socket: bytes came. */
  received(bytes: Buffer): void {
    if (this.#state === "closed") return;
    if ((this.#pauseReasons & OVER_BUDGET) === 0 && !this.#host.spendRead(this)) this.#pause(OVER_BUDGET);
    if (this.#state === "lingering") {
      this.#ignored += bytes.length;
      if (this.#ignored > MAX_IGNORED) this.terminate();
      return;
    }
    const isFirstByte = this.#requests.isEmpty;
    if (!this.#requests.push(bytes)) return;
    if (this.#state !== "reading" && this.#state !== "idle") {
      this.#pause(PIPELINED);
      return;
    }
    this.#state = "reading";
    if (this.#queued()) return;
    // Not before: a head that comes as a whole, as most do, needs no deadline, and costs no look at the clock.
    if (isFirstByte) this.#setDeadline(HEAD_MS);
    this.#awaitRest();
  }

  /** Event of the queue: it is this connection's turn to have one request handled. */
  handleNext(): void {
    if (this.#state !== "queued") return;
    const request = this.#requests.take();
    if (request === null) {
      this.#state = "reading";
      // Once for each head at most: from then on it is known how many bytes are needed.
      this.#setDeadline(HEAD_MS);
      this.#awaitRest();
      return;
    }
    this.#state = "handling";
    if (isBad(request)) {
      this.#host.turnedAway(this, "malformed", request.status);
      this.#isLastAnswer = true;
      this.#send(errorPage(request.status), false);
    } else if (this.#host.isBusy(this)) {
      // An open connection has one request under way at most. A user who resets it and comes again would have no limit.
      this.#host.turnedAway(this, "busy", 503);
      this.#answer(request, errorPage(503));
    } else {
      const answered = this.#host.handler.handle(request, this.caller, this.#host.roughMs());
      if (answered instanceof Promise) {
        void answered.then((answer) => {
          if (this.#state === "handling") this.#answer(request, answer);
          else this.#host.abandonedRequestEnded(this);
        });
      } else this.#answer(request, answered);
    }
  }

  /** Event of the socket: it takes bytes again. */
  drained(): void {
    if (this.#state === "writing") this.#write(this.#unsent);
  }

  /** Event of the socket: the client has sent all that it will send. */
  ended(): void {
    this.#inputEnded = true;
    if (this.#state === "reading" || this.#state === "idle") this.#linger();
    else if (this.#state === "lingering") this.terminate();
  }

  /** Event of the socket: it is closed. */
  closed(): void {
    if (this.#state === "closed") return;
    if (this.#state === "handling") this.#host.requestAbandoned(this);
    this.#state = "closed";
    this.#requests.clear();
    this.#unsent = NOTHING;
    this.#host.closed(this);
  }

  /** Event of the read budget: the socket may be read again. */
  resumeReading(): void {
    this.#resume(OVER_BUDGET);
  }

  /**
   * Event of the server: it stops. A connection that has had no answer yet, or of whose next request a part is here, gets a
   * moment to complete the request, because its client would take a closed connection for a failure.
   */
  finish(): void {
    if (this.#state === "idle") {
      this.#linger();
      return;
    }
    this.#isLastAnswer = true;
    if (this.#state === "reading") {
      this.#deadlineMs = Math.min(this.#deadlineMs, this.#host.roughMs() + STOPPING_MS);
    }
  }

  /** Event of the clock. */
  expire(nowMs: number): void {
    if (this.#state === "queued" || this.#state === "handling" || nowMs < this.#deadlineMs) return;
    this.terminate();
  }

  /** Closes the connection at once, with a reset. */
  terminate(): void {
    if (this.#state === "closed") return;
    this.#socket.terminate();
    this.closed();
  }

  /** From `reading` or `idle`: to `queued` where a whole request is here. @returns whether it is. */
  #queued(): boolean {
    if (!this.#requests.isReady) return false;
    this.#state = "queued";
    this.#host.enqueue(this);
    return true;
  }

  /** In `reading` or `idle`, where no whole request is here. */
  #awaitRest(): void {
    this.#resume(PIPELINED);
    if (this.#inputEnded) this.#linger();
  }

  #answer(request: Request, answer: Answer): void {
    const noMoreRequests = this.#inputEnded && this.#requests.isEmpty;
    // After empty chunks we close the connection ourselves: the client has not said that it sends nothing more.
    this.#isCloseAsked = !request.keepAlive && !request.emptyChunks;
    if (!request.keepAlive || answer.close === true || noMoreRequests) this.#isLastAnswer = true;
    this.#send(answer, request.method === "HEAD");
  }

  #send(answer: Answer, head: boolean): void {
    const keepAlive = !this.#isLastAnswer;
    const server = this.#host.serverName;
    this.#write(encodedAnswers.encode(answer, { server, head, keepAlive, nowMs: systemClock.now() }));
  }

  #write(bytes: Buffer): void {
    const written = this.#socket.write(bytes);
    if (written < 0) {
      // The request has its answer: it is not abandoned.
      this.#state = "writing";
      this.terminate();
    } else if (written < bytes.length) {
      // The deadline is that of the whole answer, however many parts the client takes it in.
      if (this.#state !== "writing") this.#setDeadline(STALL_MS);
      this.#state = "writing";
      this.#unsent = bytes.subarray(written);
    } else {
      this.#unsent = NOTHING;
      this.#written();
    }
  }

  /** An answer is written as a whole. */
  #written(): void {
    if (this.#isLastAnswer) {
      // The client sends nothing more and all that it sent is read, so the kernel sends no reset that could overtake the answer: there is
      // no need to wait for the client.
      if (this.#isCloseAsked && this.#requests.isAtRest) this.#close();
      else this.#linger();
      return;
    }
    this.#state = this.#requests.isEmpty ? "idle" : "reading";
    this.#setDeadline(this.#state === "idle" ? IDLE_MS : HEAD_MS);
    if (!this.#queued()) this.#awaitRest();
  }

  /** Closes the connection in order. */
  #close(): void {
    this.#state = "lingering";
    this.#socket.close();
    this.closed();
  }

  /** Closes our side, and waits a while for the client to close its own. */
  #linger(): void {
    this.#state = "lingering";
    this.#requests.clear();
    this.#setDeadline(STALL_MS);
    this.#resume(PIPELINED);
    if (this.#inputEnded) this.#socket.end();
    else this.#socket.shutdown();
  }

  #setDeadline(ms: number): void {
    this.#deadlineMs = this.#host.roughMs() + ms;
  }

  #pause(reason: number): void {
    if (this.#pauseReasons === 0) this.#socket.pause();
    this.#pauseReasons |= reason;
  }

  #resume(reason: number): void {
    if (this.#pauseReasons === 0 || this.#state === "closed") return;
    this.#pauseReasons &= ~reason;
    if (this.#pauseReasons === 0) this.#socket.resume();
  }
}
