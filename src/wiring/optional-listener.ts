import { ImdsProxyError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { Finding } from "../telemetry/health.ts";
import type { Log } from "../telemetry/log.ts";

/**
 * A listener that the proxy also runs without: metrics, or the IPv6 endpoint. Where it cannot listen, the reason is logged
 * once and is a part of the health. It tries again until it listens.
 */

/** Milliseconds until the next attempt, which double up to the maximum. */
const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 30_000;

export interface OptionalListenerOptions {
  /** What is missing while it does not listen, as the subject of a sentence: `metrics`. */
  readonly what: string;
  /** Begins to listen. @throws ImdsProxyError where it cannot. */
  readonly listen: () => void;
  /** What an operator can do; null leaves the remedy of the error. */
  readonly remedy: string | null;
  readonly log: Log;
  readonly clock: Clock;
}

export class OptionalListener {
  readonly #options: OptionalListenerOptions;
  #failure: ImdsProxyError | null = null;
  #retryMs = FIRST_RETRY_MS;
  #cancel: () => void = () => {};

  /** Tries at once. */
  constructor(options: OptionalListenerOptions) {
    this.#options = options;
    this.#try();
  }

  /** What is wrong, for the health; null while it listens. */
  finding(): Finding | null {
    if (this.#failure === null) return null;
    const { what, remedy } = this.#options;
    return {
      what: `${what} cannot be served: ${this.#failure.problem}; it is tried again every ${LAST_RETRY_MS / 1_000} s`,
      remedy: remedy ?? this.#failure.remedy,
      lasting: true,
    };
  }

  /** Stops trying. */
  stop(): void {
    this.#cancel();
  }

  readonly #try = (): void => {
    const { what, listen, log, clock } = this.#options;
    try {
      listen();
    } catch (error) {
      if (!(error instanceof ImdsProxyError)) throw error;
      const known = this.#failure !== null;
      this.#failure = error;
      if (!known) {
        log.warn(`${what} cannot be served; the rest goes on, and this is tried again`, {
          problem: error.problem,
          remedy: this.#options.remedy ?? error.remedy,
        });
      }
      this.#cancel = clock.schedule(this.#retryMs, this.#try);
      this.#retryMs = Math.min(2 * this.#retryMs, LAST_RETRY_MS);
      return;
    }
    if (this.#failure !== null) log.info(`served now: ${what}`);
    this.#failure = null;
  };
}
