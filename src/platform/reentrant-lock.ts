import { AsyncLocalStorage } from "node:async_hooks";
import { closeSync } from "node:fs";

/**
 * A lock that is held against other processes by a file, and within this process as well. A call from inside of the work that holds it
 * joins in (it is reentrant); any other call waits for the end of that work.
 */
export class ReentrantLock {
  readonly #take: () => Promise<number | null>;
  /** Set in the work that holds the lock, and in all that it calls. `ended`: that work is over, and the lock is given back. */
  readonly #within = new AsyncLocalStorage<{ ended: boolean }>();
  /** Resolves when the work that began last has ended. */
  #last: Promise<void> = Promise.resolve();
  #descriptor: number | null = null;

  /** @param take locks the file: the descriptor, which is closed at the end; null where the work goes on without a file. */
  constructor(take: () => Promise<number | null>) {
    this.#take = take;
  }

  /** The descriptor of the file that is locked now; null for none. */
  get descriptor(): number | null {
    return this.#descriptor;
  }

  /** Runs `work` with the lock. @throws what `take` or `work` throws. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#within.getStore()?.ended === false) return work();
    const before = this.#last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    await before;
    const state = { ended: false };
    try {
      this.#descriptor = await this.#take();
      return await this.#within.run(state, work);
    } finally {
      state.ended = true;
      if (this.#descriptor !== null) closeSync(this.#descriptor);
      this.#descriptor = null;
      resolve();
    }
  }
}
