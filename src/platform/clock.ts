/**
 * Time as the stateful parts see it, so that tests can turn it by hand.
 * The system's clock is at the edge; nothing else calls Date.now or setTimeout.
 */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Calls `run` once after `delayMs` milliseconds; the returned function cancels it. Does not keep the process alive. */
  schedule(delayMs: number, run: () => void): () => void;
}

/** The clock of the machine. */
export const systemClock: Clock = {
  now: () => Date.now(),
  schedule(delayMs, run) {
    const timer = setTimeout(run, delayMs);
    timer.unref();
    return () => clearTimeout(timer);
  },
};
