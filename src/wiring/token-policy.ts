import type { Config } from "../config/schema.ts";
import type { Upstream } from "../imds/upstream.ts";
import type { Clock } from "../platform/clock.ts";

/** How often the upstream is asked whether it requires tokens: until it has said, and after that. Milliseconds. */
const UNTIL_KNOWN_MS = 5_000;
const AFTERWARDS_MS = 600_000;

/** Whether requests without a token are refused: as the configuration says, or as the upstream does it. */
export class TokenPolicy {
  readonly #setting: Config["imds"]["tokens"];
  readonly #upstream: Pick<Upstream, "tokensRequired">;
  readonly #clock: Clock;
  #required = true;
  #cancel: () => void = () => {};
  #stopped = false;

  constructor(options: {
    setting: Config["imds"]["tokens"];
    upstream: Pick<Upstream, "tokensRequired">;
    clock: Clock;
  }) {
    this.#setting = options.setting;
    this.#upstream = options.upstream;
    this.#clock = options.clock;
  }

  /** Until the upstream has said, tokens are required: every client of today sends one. */
  get required(): boolean {
    return this.#setting === "auto" ? this.#required : this.#setting === "required";
  }

  /** Asks now, and from then on now and again. */
  start(): void {
    this.#cancel();
    if (this.#setting === "auto") void this.#ask(false);
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel();
  }

  async #ask(known: boolean): Promise<void> {
    const answer = await this.#upstream.tokensRequired();
    if (this.#stopped) return;
    if (answer !== null) this.#required = answer;
    const isKnown = known || answer !== null;
    this.#cancel = this.#clock.schedule(
      isKnown ? AFTERWARDS_MS : UNTIL_KNOWN_MS,
      () => void this.#ask(isKnown),
    );
  }
}
