import type { Subject } from "./tokens.ts";

/**
 * Whose request is next. Users take turns, one request each, so that whoever sends ten thousand delays the next user by
 * one; where a single user asks, nothing is held back.
 */

/** Something that has requests waiting, of one user. */
export interface Work {
  /** Handles one request. Returns true where more are ready at once. */
  step(): boolean;
}

/** How many requests are handled before sockets are looked at again, whatever number of sockets brought them. */
const BATCH = 128;

/** Turns between users, and between the connections of a user. */
export class Turns {
  readonly #queues = new Map<Subject, Work[]>();
  readonly #yield: (run: () => void) => void;
  /** Requests that may still be handled in this turn of the event loop. */
  #left = BATCH;
  #stepping = false;
  #yielded = false;

  /** @param yieldTo runs a function after other events had their turn; setImmediate. */
  constructor(yieldTo: (run: () => void) => void = setImmediate) {
    this.#yield = yieldTo;
  }

  /** Puts work of a user in line. It must not be in line already. */
  add(user: Subject, work: Work): void {
    const queue = this.#queues.get(user);
    if (queue !== undefined) queue.push(work);
    else this.#queues.set(user, [work]);
    if (!this.#stepping) this.#run();
  }

  #run(): void {
    this.#stepping = true;
    while (this.#left > 0 && this.#queues.size > 0) {
      for (const [user, queue] of this.#queues) {
        if (this.#left-- <= 0) break;
        const work = queue.shift();
        const more = work?.step() ?? false;
        if (more && work !== undefined) queue.push(work);
        // To the end of the line; the loop comes by again where it has time left.
        this.#queues.delete(user);
        if (queue.length > 0) this.#queues.set(user, queue);
      }
    }
    this.#stepping = false;
    // Also with nothing left to do: a thousand sockets that are read in one turn would each bring a batch of their own.
    if (this.#yielded) return;
    this.#yielded = true;
    this.#yield(this.#renew);
  }

  readonly #renew = (): void => {
    this.#yielded = false;
    this.#left = BATCH;
    if (this.#queues.size > 0) this.#run();
  };
}
