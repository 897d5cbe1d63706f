import type { Config } from "../config/schema.ts";
import type { Clock } from "../platform/clock.ts";
import type { Upstream } from "../upstream/upstream.ts";

/** Milliseconds until the upstream is asked again: while it never answered; while it is away; after an answer. */
const UNTIL_KNOWN_MS = 500;
const WHILE_AWAY_MS = 5_000;
const AFTERWARDS_MS = 600_000;

/**
 * Whether requests without a token are refused: as the configuration says, or with `auto` as the upstream does.
 *
 * The upstream's last answer holds while it is away, and after a move, until the next answer.
 */
export class TokenPolicy {
  readonly #setting: Config["imds"]["tokens"];
  readonly #upstream: Pick<Upstream, "tokensRequired">;
  readonly #clock: Clock;
  #said: boolean | null = null;
  /** Counts the calls of start() and stop(). An answer that was asked for before the last one is dropped. */
  #run = 0;
  #cancel: () => void = () => {};

  constructor(options: {
    setting: Config["imds"]["tokens"];
    upstream: Pick<Upstream, "tokensRequired">;
    clock: Clock;
  }) {
    this.#setting = options.setting;
    this.#upstream = options.upstream;
    this.#clock = options.clock;
  }

  /** Null until the upstream has answered. */
  get required(): boolean | null {
    return this.#setting === "auto" ? this.#said : this.#setting === "required";
  }

  /**
   * Asks the upstream now and at intervals from then on. To be called again when the upstream has moved.
   *
   * @returns settles after the first answer or failure. Never rejects.
   */
  async start(): Promise<void> {
    this.stop();
    if (this.#setting === "auto") await this.#ask(this.#run);
  }

  stop(): void {
    this.#run++;
    this.#cancel();
  }

  async #ask(run: number): Promise<void> {
    const answer = await this.#upstream.tokensRequired();
    if (run !== this.#run) return;
    if (answer !== null) this.#said = answer;
    const delayMs = answer !== null ? AFTERWARDS_MS : this.#said === null ? UNTIL_KNOWN_MS : WHILE_AWAY_MS;
    this.#cancel = this.#clock.schedule(delayMs, () => void this.#ask(run));
  }
}
