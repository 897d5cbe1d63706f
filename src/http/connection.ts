import type { Socket } from "bun";
import type { Caller } from "../identity/caller.ts";
import { systemClock } from "../platform/clock.ts";
import { type Answer, encodeAnswer, errorPage } from "./answer.ts";
import { EMPTY_CHUNKS, isBad, MAX_HEAD_BYTES, parseRequest, type Request } from "./request.ts";
import type { Reader, RequestSource } from "./scheduling.ts";

/** Milliseconds for a whole head, from its first byte; and without a request, for a connection that is kept. */
const HEAD_MS = 5_000;
const IDLE_MS = 75_000;
/** Milliseconds for a client to take an answer, or to close after our last one. */
const STALL_MS = 10_000;
/** Milliseconds that a connection has for its request once we are about to stop. */
const FIRST_REQUEST_MS = 1_000;
/** Bytes that a client may still send after our last answer; who goes on reads no answers. */
const MAX_IGNORED = 262_144;
const HEAD_END = Buffer.from("\r\n\r\n");
const NOTHING = Buffer.alloc(0);

/** Answers requests. It must not throw, nor reject; the handler of the metadata service and that of metrics do not. */
export interface RequestHandler {
  handle(request: Request, caller: Caller): Answer | Promise<Answer>;
}

export interface ConnectionContext {
  readonly handler: RequestHandler;
  readonly monotonicMs: () => number;
  readonly enqueue: (source: RequestSource) => void;
  /** Counts a read; false where the reader must pause until it is resumed. */
  readonly spendRead: (reader: Reader) => boolean;
  /** Whether so many requests of the user's wait for something that no more are begun. */
  readonly busy: () => boolean;
  /** Counts a request that waits for something, and that it does no longer. */
  readonly waits: (count: 1 | -1) => void;
  readonly draining: () => boolean;
  /** Told of a request that the handler never sees, and of the status that it got. */
  readonly turnedAway: (kind: "busy" | "malformed", status: number) => void;
  readonly onClose: () => void;
}

/** One connection: bytes in, one request after the other, bytes out; never more in memory than the limits above. */
export class Connection implements RequestSource, Reader {
  readonly #socket: Socket<Connection | undefined>;
  readonly #caller: Caller;
  readonly #context: ConnectionContext;
  #buffered: Buffer = NOTHING;
  #unsent: Buffer = NOTHING;
  /** Bytes that have to be here before the request is looked at: its head, and the empty chunks that it announced. */
  #needed = 0;
  /** Bytes of the last request's body that are still to be read over. */
  #bodyLeft = 0;
  #state: "reading" | "queued" | "handling" | "writing" | "closing" | "closed" = "reading";
  #closeAfterWrite = false;
  #answered = false;
  #inputEnded = false;
  /** Why reading is paused: the read budget is exceeded, or a pipelined request waits for the answer before it. */
  #overBudget = false;
  #pipelined = false;
  /** Whether the socket was told to pause. */
  #paused = false;
  /** Bytes that came after our last answer. */
  #ignored = 0;
  #deadlineMs: number;

  constructor(socket: Socket<Connection | undefined>, caller: Caller, context: ConnectionContext) {
    this.#socket = socket;
    this.#caller = caller;
    this.#context = context;
    this.#deadlineMs = context.monotonicMs() + HEAD_MS;
  }

  /** What the connection waits for. */
  get state(): "reading" | "idle" | "queued" | "handling" | "writing" | "lingering" | "closed" {
    if (this.#state === "reading" && this.#answered && this.#buffered.length === 0) return "idle";
    return this.#state === "closing" ? "lingering" : this.#state;
  }

  /** Whether nothing is under way for the caller. */
  get idle(): boolean {
    return this.#state === "reading" || this.#state === "closing";
  }

  received(bytes: Buffer): void {
    if (this.#state === "closed") return;
    if (!this.#overBudget && !this.#context.spendRead(this)) {
      this.#overBudget = true;
      this.#pause();
    }
    if (this.#state === "closing") {
      this.#ignored += bytes.length;
      if (this.#ignored > MAX_IGNORED) this.terminate();
      return;
    }
    let fresh = bytes;
    if (this.#bodyLeft > 0) {
      const skipped = Math.min(this.#bodyLeft, fresh.length);
      this.#bodyLeft -= skipped;
      fresh = fresh.subarray(skipped);
    }
    if (fresh.length === 0) return;
    if (this.#buffered.length === 0 && this.#state === "reading") {
      this.#deadlineMs = this.#context.monotonicMs() + HEAD_MS;
    }
    // What Bun hands over is its own to use again, so what is kept is copied.
    this.#buffered =
      this.#buffered.length === 0 ? Buffer.from(fresh) : Buffer.concat([this.#buffered, fresh]);
    // One request at a time: what is sent ahead waits, at last with the client.
    if (this.#state !== "reading") {
      this.#pipelined = true;
      this.#pause();
    }
    this.#proceed();
  }

  /** Takes one request out of what was received, and answers it. */
  handleNext(): boolean {
    if (this.#state !== "queued") return false;
    this.#state = "reading";
    const end = this.#buffered.indexOf(HEAD_END);
    if (end < 0 || end > MAX_HEAD_BYTES) {
      this.#refuse(400);
      return false;
    }
    const parsed = parseRequest(this.#buffered.toString("latin1", 0, end));
    let rest = this.#buffered.subarray(end + HEAD_END.length);
    if (isBad(parsed)) {
      this.#refuse(parsed.status);
      return false;
    }
    if (parsed.emptyChunks) {
      const body = rest.toString("latin1", 0, EMPTY_CHUNKS.length);
      if (!EMPTY_CHUNKS.startsWith(body)) {
        this.#refuse(400);
        return false;
      }
      if (body.length < EMPTY_CHUNKS.length) {
        this.#needed = end + HEAD_END.length + EMPTY_CHUNKS.length;
        return this.#ready();
      }
      rest = rest.subarray(EMPTY_CHUNKS.length);
    }
    this.#needed = 0;
    const skipped = Math.min(parsed.bodyLength, rest.length);
    this.#bodyLeft = parsed.bodyLength - skipped;
    rest = rest.subarray(skipped);
    this.#buffered = rest.length === 0 ? NOTHING : rest;
    this.#state = "handling";
    // A request outlives its connection: without this, whoever resets theirs and comes again has no limit.
    const busy = this.#context.busy();
    if (busy) this.#context.turnedAway("busy", 503);
    const answer = busy ? errorPage(503) : this.#context.handler.handle(parsed, this.#caller);
    if (answer instanceof Promise) {
      this.#context.waits(1);
      void answer.then((found) => {
        this.#context.waits(-1);
        this.#send(parsed, found);
      });
    } else this.#send(parsed, answer, false);
    // Back in line at once where the next request is here already, so that this returns true and is asked again.
    return this.#ready();
  }

  drained(): void {
    if (this.#unsent.length > 0) this.#write(this.#unsent);
    else if (this.#state === "writing") {
      this.#written();
      this.#proceed();
    }
  }

  /** The client has sent all that it will send. */
  ended(): void {
    this.#inputEnded = true;
    // What is there is no whole request, and never will be.
    if (this.#state === "reading") this.#end();
    else if (this.#state === "closing") this.terminate();
  }

  closed(): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#buffered = NOTHING;
    this.#unsent = NOTHING;
    this.#context.onClose();
  }

  /**
   * Ends the connection once nothing is under way. One that has not had an answer yet, or of whose next request a part
   * is here, has a moment to complete it: its client would take a closed connection for a failure.
   */
  finish(): void {
    if (this.#state === "reading" && this.#answered && this.#buffered.length === 0) this.#end();
    else this.#closeAfterWrite = true;
    if (this.#state === "reading") {
      this.#deadlineMs = Math.min(this.#deadlineMs, this.#context.monotonicMs() + FIRST_REQUEST_MS);
    }
  }

  terminate(): void {
    if (this.#state === "closed") return;
    this.#socket.terminate();
    this.closed();
  }

  /** Ends a connection whose time is over. */
  expire(now: number): void {
    if (this.#state === "queued" || this.#state === "handling" || now < this.#deadlineMs) return;
    this.terminate();
  }

  resumeReading(): void {
    this.#overBudget = false;
    this.#resume();
  }

  #proceed(): void {
    if (this.#ready()) this.#context.enqueue(this);
  }

  /** Whether a request is ready; if so, it is marked as being in line. */
  #ready(): boolean {
    if (this.#state !== "reading") return false;
    const whole = this.#buffered.indexOf(HEAD_END) >= 0 && this.#buffered.length >= this.#needed;
    if (!whole && (this.#needed > 0 || this.#buffered.length <= MAX_HEAD_BYTES)) {
      this.#pipelined = false;
      this.#resume();
      if (this.#inputEnded) this.#end();
      return false;
    }
    this.#state = "queued";
    return true;
  }

  #refuse(status: 400 | 413 | 417): void {
    this.#context.turnedAway("malformed", status);
    this.#buffered = NOTHING;
    const answer = { ...errorPage(status), close: true };
    const bytes = encodeAnswer(answer, { head: false, keepAlive: false, nowMs: systemClock.now() });
    this.#closeAfterWrite = true;
    this.#state = "handling";
    this.#write(bytes);
  }

  #send(request: Request, answer: Answer, proceed = true): void {
    if (this.#state !== "handling") return;
    const keepAlive =
      request.keepAlive &&
      answer.close !== true &&
      !this.#context.draining() &&
      !(this.#inputEnded && this.#buffered.length === 0);
    if (!keepAlive) this.#closeAfterWrite = true;
    this.#answered = true;
    this.#write(
      encodeAnswer(answer, { head: request.method === "HEAD", keepAlive, nowMs: systemClock.now() }),
    );
    if (proceed) this.#proceed();
  }

  #write(bytes: Buffer): void {
    const sent = this.#socket.write(bytes);
    if (sent < 0) {
      this.terminate();
      return;
    }
    if (sent < bytes.length) {
      if (this.#state !== "writing") this.#deadlineMs = this.#context.monotonicMs() + STALL_MS;
      this.#state = "writing";
      this.#unsent = bytes.subarray(sent);
      return;
    }
    const waited = this.#state === "writing";
    this.#unsent = NOTHING;
    this.#written();
    if (waited) this.#proceed();
  }

  #written(): void {
    if (this.#closeAfterWrite) {
      this.#end();
      return;
    }
    this.#state = "reading";
    this.#deadlineMs = this.#context.monotonicMs() + (this.#buffered.length > 0 ? HEAD_MS : IDLE_MS);
    if (this.#inputEnded && this.#buffered.length === 0) this.#end();
  }

  #pause(): void {
    if (this.#paused || this.#state === "closed") return;
    this.#paused = true;
    this.#socket.pause();
  }

  #resume(): void {
    if (!this.#paused || this.#overBudget || this.#pipelined || this.#state === "closed") return;
    this.#paused = false;
    this.#socket.resume();
  }

  /** Says that we are done, and waits a while for the client to close: a reset could overtake our last answer. */
  #end(): void {
    if (this.#state === "closed") return;
    this.#state = "closing";
    this.#buffered = NOTHING;
    this.#deadlineMs = this.#context.monotonicMs() + STALL_MS;
    this.#pipelined = false;
    this.#resume();
    if (this.#inputEnded) this.#socket.end();
    else this.#socket.shutdown();
  }
}
