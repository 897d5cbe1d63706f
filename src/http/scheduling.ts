import type { Subject } from "../identity/caller.ts";

/**
 * Whose request is next. Users take turns, one request each, so that whoever sends ten thousand delays the next user by
 * one; where a single user asks, nothing is held back. And so that an iteration of the event loop stays short whatever is
 * there to be read, there is so much of each in one iteration, and the rest in the next.
 */

/** Iterations of the event loop, for those who have a budget for each. */
export class Iterations {
  readonly #yield: (run: () => void) => void;
  readonly #renewals: (() => void)[] = [];
  #awaited = false;

  /** @param yieldTo runs a function after other events had their turn; setImmediate. */
  constructor(yieldTo: (run: () => void) => void = setImmediate) {
    this.#yield = yieldTo;
  }

  /** Has a function called in the next iteration after each in which something was used up. */
  onNext(renew: () => void): void {
    this.#renewals.push(renew);
  }

  /** Says that something of a budget of this iteration is used up. */
  used(): void {
    if (this.#awaited) return;
    this.#awaited = true;
    this.#yield(this.#next);
  }

  readonly #next = (): void => {
    this.#awaited = false;
    for (const renew of this.#renewals) renew();
  };
}

/** Something that has requests waiting, of one user. */
export interface Work {
  /** Handles one request. Returns true where more are ready at once. */
  step(): boolean;
}

/** How many requests are handled before sockets are looked at again, whatever number of sockets brought them. */
const BATCH = 128;
/** And for how many milliseconds: what a request costs is in part its sender's choice. */
const BATCH_MS = 10;

/** Turns between users, and between the connections of a user. */
export class Turns {
  readonly #queues = new Map<Subject, Work[]>();
  readonly #iterations: Iterations;
  readonly #monotonicMs: () => number;
  /** Requests that may still be handled in this iteration, and milliseconds for them. */
  #left = BATCH;
  #leftMs = BATCH_MS;
  #stepping = false;

  constructor(iterations: Iterations, monotonicMs: () => number) {
    this.#iterations = iterations;
    this.#monotonicMs = monotonicMs;
    iterations.onNext(() => {
      this.#left = BATCH;
      this.#leftMs = BATCH_MS;
      if (this.#queues.size > 0) this.#run();
    });
  }

  /** Puts work of a user in line. It must not be in line already. */
  add(user: Subject, work: Work): void {
    this.#again(user, work);
    if (!this.#stepping) this.#run();
  }

  #run(): void {
    this.#stepping = true;
    try {
      let beganMs = this.#monotonicMs();
      // Who has more goes to the end of the line, where this loop comes by again.
      for (const [user, queue] of this.#queues) {
        if (this.#left <= 0 || this.#leftMs <= 0) break;
        this.#left--;
        const work = queue.shift();
        this.#queues.delete(user);
        if (queue.length > 0) this.#queues.set(user, queue);
        if (work?.step() === true) this.#again(user, work);
        const endMs = this.#monotonicMs();
        this.#leftMs -= endMs - beganMs;
        beganMs = endMs;
      }
    } finally {
      this.#stepping = false;
      // Also with nothing left to do: a thousand sockets that are read in one iteration would each bring a batch.
      this.#iterations.used();
    }
  }

  #again(user: Subject, work: Work): void {
    const queue = this.#queues.get(user);
    if (queue !== undefined) queue.push(work);
    else this.#queues.set(user, [work]);
  }
}

/** A connection that can wait to be read from. */
export interface Reader {
  /** Reads again. */
  wake(): void;
}

/** How often the connections of a user are read from in one iteration, how often all, and a user at the least. */
const READS = 256;
const READS_OF_ALL = 2_048;
const LEAST_READS = 16;

/**
 * How much is read for a user. Where 1,024 sockets are readable, Bun looks for more again and again, up to 48 times, and
 * runs nothing that waits for the next iteration; it was seen to take a second.
 */
export class Reads {
  readonly #iterations: Iterations;
  /** Reads of each user's in this iteration, and who of them rests until a later one. */
  readonly #taken = new Map<Subject, number>();
  readonly #resting = new Map<Subject, Reader[]>();
  /** How much it is for a user; the fewer, the more users were read for. */
  #each = READS;

  constructor(iterations: Iterations) {
    this.#iterations = iterations;
    iterations.onNext(() => {
      const users = Math.max(1, this.#taken.size, this.#resting.size);
      this.#each = Math.max(LEAST_READS, Math.min(READS, Math.floor(READS_OF_ALL / users)));
      this.#taken.clear();
      for (const [user, readers] of this.#resting) {
        for (const reader of readers.splice(0, this.#each)) reader.wake();
        if (readers.length === 0) this.#resting.delete(user);
        else iterations.used();
      }
    });
  }

  /**
   * Counts one read for a user.
   *
   * @returns false where that was more than there may be in one iteration: the reader is to rest until it is woken.
   */
  take(user: Subject, reader: Reader): boolean {
    this.#iterations.used();
    const taken = (this.#taken.get(user) ?? 0) + 1;
    this.#taken.set(user, taken);
    if (taken <= this.#each) return true;
    const resting = this.#resting.get(user);
    if (resting === undefined) this.#resting.set(user, [reader]);
    else resting.push(reader);
    return false;
  }
}
