import type { Subject } from "../identity/caller.ts";

/**
 * Which request is handled next, and how much is done in one iteration of the event loop.
 *
 * Requests are handled in round-robin order over users, one request each, so that a user who sends ten thousand requests
 * delays another user's by one. A user who is alone is not held back. Both the requests handled and the reads done in one
 * iteration of the event loop are limited; what exceeds the limits is done in the next iteration.
 */

/** Tells those who keep a budget for each iteration of the event loop when the next iteration begins. */
export class LoopIterations {
  readonly #defer: (run: () => void) => void;
  readonly #listeners: (() => void)[] = [];
  #scheduled = false;

  /** @param defer runs a function in the next iteration of the event loop; default setImmediate. */
  constructor(defer: (run: () => void) => void = setImmediate) {
    this.#defer = defer;
  }

  /** Registers a function that is called at the start of each iteration that {@link requestNext} asked for. */
  onNext(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Asks that the listeners are called in the next iteration; several requests in one iteration count once. */
  requestNext(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#defer(this.#next);
  }

  readonly #next = (): void => {
    this.#scheduled = false;
    for (const listener of this.#listeners) listener();
  };
}

/** A connection that has at least one complete request. */
export interface RequestSource {
  /** Handles one request. A source that has another one, then or later, is enqueued again. */
  handleNext(): void;
}

/** Requests handled in one iteration, whatever number of sockets they came from. */
const MAX_REQUESTS = 128;
/** Milliseconds of one iteration spent on requests: the cost of a request is in part its sender's choice. */
const MAX_REQUESTS_MS = 10;

/** A queue of sources for each user, served in round-robin order. */
export class RoundRobin {
  /** In the order in which users are served: a user who was served and has more goes to the end. */
  readonly #queues = new Map<Subject, RequestSource[]>();
  readonly #iterations: LoopIterations;
  readonly #monotonicMs: () => number;
  /** What is left of this iteration's requests and milliseconds. */
  #requestsLeft = MAX_REQUESTS;
  #msLeft = MAX_REQUESTS_MS;
  #running = false;
  /** When the current turn began; null outside of one. */
  #turnMs: number | null = null;

  constructor(iterations: LoopIterations, monotonicMs: () => number) {
    this.#iterations = iterations;
    this.#monotonicMs = monotonicMs;
    iterations.onNext(() => {
      this.#requestsLeft = MAX_REQUESTS;
      this.#msLeft = MAX_REQUESTS_MS;
      if (this.#queues.size > 0) this.#run(null);
    });
  }

  /**
   * Queues a source, which must not be in the queue already, and serves the queues as far as the budget allows. Within
   * {@link RequestSource.handleNext} it only queues.
   */
  enqueue(user: Subject, source: RequestSource): void {
    // Mostly nobody else waits: then no queue is made for this one.
    if (!this.#running && this.#queues.size === 0 && this.#hasBudget) {
      this.#run(source);
      return;
    }
    const queue = this.#queues.get(user);
    if (queue !== undefined) queue.push(source);
    else this.#queues.set(user, [source]);
    if (!this.#running) this.#run(null);
  }

  get #hasBudget(): boolean {
    return this.#requestsLeft > 0 && this.#msLeft > 0;
  }

  /** The time of the clock, for what need not be exact to the millisecond: within a turn, when it began. */
  roughMs(): number {
    return this.#turnMs ?? this.#monotonicMs();
  }

  /** @param first is served before the queues are; null for none. */
  #run(first: RequestSource | null): void {
    this.#running = true;
    try {
      let startMs = this.#monotonicMs();
      if (first !== null) startMs = this.#serve(first, startMs);
      if (this.#queues.size === 0) return;
      // A Map's iteration also visits what is inserted while it runs, so users who have more are reached again.
      for (const [user, queue] of this.#queues) {
        if (!this.#hasBudget) break;
        const source = queue.shift();
        this.#queues.delete(user);
        if (queue.length > 0) this.#queues.set(user, queue);
        if (source !== undefined) startMs = this.#serve(source, startMs);
      }
    } finally {
      this.#running = false;
      this.#turnMs = null;
      // Also where the queues are empty: a thousand sockets read in one iteration share one budget.
      this.#iterations.requestNext();
    }
  }

  /** One turn. @returns when it ended. */
  #serve(source: RequestSource, startMs: number): number {
    this.#requestsLeft--;
    this.#turnMs = startMs;
    source.handleNext();
    const endMs = this.#monotonicMs();
    this.#msLeft -= endMs - startMs;
    return endMs;
  }
}

/** A connection whose reading can be paused. */
export interface Reader {
  /** Called when the budget allows this connection to be read again. */
  resumeReading(): void;
}

/** Reads in one iteration: at most for one user, for all users together, and at least for each user. */
const MAX_READS_PER_USER = 256;
const MAX_READS = 2_048;
const MIN_READS_PER_USER = 16;

/**
 * Limits how often the sockets of a user are read in one iteration of the event loop. Without it, 1,024 sockets that stay
 * readable keep Bun in its poll loop: it polls again up to 48 times before it runs anything that waits for the next
 * iteration, which was seen to take a second.
 */
export class ReadBudget {
  readonly #iterations: LoopIterations;
  /** Reads in this iteration, by user. */
  readonly #reads = new Map<Subject, { count: number }>();
  /** The user of the last read in this iteration, whose next one mostly follows; null where there was none. */
  #lastUser: Subject | null = null;
  #lastReads = { count: 0 };
  /** Readers that exceeded the budget, by user, in the order in which they are resumed. */
  readonly #paused = new Map<Subject, Reader[]>();
  /** Reads that each user has in this iteration; the more users were read for, the fewer. */
  #perUser = MAX_READS_PER_USER;

  constructor(iterations: LoopIterations) {
    this.#iterations = iterations;
    iterations.onNext(() => {
      const users = Math.max(1, this.#reads.size, this.#paused.size);
      this.#perUser = Math.max(
        MIN_READS_PER_USER,
        Math.min(MAX_READS_PER_USER, Math.floor(MAX_READS / users)),
      );
      this.#reads.clear();
      this.#lastUser = null;
      for (const [user, readers] of this.#paused) {
        for (const reader of readers.splice(0, this.#perUser)) reader.resumeReading();
        if (readers.length === 0) this.#paused.delete(user);
        else iterations.requestNext();
      }
    });
  }

  /**
   * Counts one read of a user's socket.
   *
   * @returns false where the user's budget is exceeded: the reader must pause, and is resumed in a later iteration.
   */
  spend(user: Subject, reader: Reader): boolean {
    this.#iterations.requestNext();
    const reads = user === this.#lastUser ? this.#lastReads : this.#readsOf(user);
    reads.count++;
    if (reads.count <= this.#perUser) return true;
    const paused = this.#paused.get(user);
    if (paused === undefined) this.#paused.set(user, [reader]);
    else paused.push(reader);
    return false;
  }

  #readsOf(user: Subject): { count: number } {
    let reads = this.#reads.get(user);
    if (reads === undefined) {
      reads = { count: 0 };
      this.#reads.set(user, reads);
    }
    this.#lastUser = user;
    this.#lastReads = reads;
    return reads;
  }
}
