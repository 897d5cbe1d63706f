import type { Clock } from "../platform/clock.ts";

/**
 * The watch over the firewall rules: whatever removes them, changes them or puts something before them is undone within
 * one interval. Stateful; what it watches, and where it reports to, are given to it.
 */

/** How often it looks. The promise is 30 s; a look costs a few milliseconds. */
export const CHECK_INTERVAL_MS = 2_000;
/** How often the node is asked anew who is exempt and where the upstream is: accounts come and go without a sign. */
export const RESOLVE_INTERVAL_MS = 30_000;

/** The rules of the node. `Spec` is whatever they are built from. */
export interface WatchedRules<Spec> {
  /** What the rules should be now; throws where the configuration cannot be read. */
  resolve(): Promise<Spec>;
  /** Changes whenever the configuration does; cheap. */
  configurationStamp(): string;
  /** In words, each thing that is not as it should be. */
  deviations(spec: Spec): Promise<readonly string[]>;
  /** Puts everything right at once. */
  apply(spec: Spec): Promise<void>;
}

/** What serve's metrics read, as JSON in a file. Times are ISO 8601 in UTC, null for never. */
export interface FirewallHealth {
  /** Since boot. */
  readonly repairs: number;
  readonly lastRepair: string | null;
  readonly lastCheck: string | null;
  readonly healthy: boolean;
}

export interface WatchOptions<Spec> {
  readonly rules: WatchedRules<Spec>;
  readonly clock: Clock;
  /** What was right when last seen; null where nothing is remembered. */
  readonly remembered: Spec | null;
  /** Keeps what is right, for a boot at which the configuration cannot be read. */
  readonly remember: (spec: Spec) => void;
  /** The health that an earlier watch left behind. */
  readonly before: FirewallHealth | null;
  readonly report: (health: FirewallHealth) => void;
  readonly log: (level: "notice" | "error", message: string) => void;
}

const isoTime = (ms: number): string => new Date(ms).toISOString();
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** One watch. `round` never runs twice at once. */
export class FirewallWatch<Spec> {
  readonly #options: WatchOptions<Spec>;
  #health: FirewallHealth;
  #spec: Spec | null = null;
  #stamp = "";
  #resolvedAtMs = Number.NEGATIVE_INFINITY;
  #complaint: string | null = null;

  constructor(options: WatchOptions<Spec>) {
    this.#options = options;
    this.#health = {
      repairs: options.before?.repairs ?? 0,
      lastRepair: options.before?.lastRepair ?? null,
      lastCheck: options.before?.lastCheck ?? null,
      healthy: false,
    };
  }

  /**
   * Looks once, and repairs what is not right.
   *
   * @returns whether the rules are right now.
   */
  async round(): Promise<boolean> {
    const { rules, clock, log } = this.#options;
    try {
      const known = this.#spec;
      let spec = await this.#currentSpec(false);
      let found = await rules.deviations(spec);
      // Somebody else's change: what the rules should be may have changed with it, as when the HyperPod agent comes up.
      const repair = found.length > 0 && spec === known;
      if (repair) {
        spec = await this.#currentSpec(true);
        if (spec !== known) found = [...new Set([...found, ...(await rules.deviations(spec))])];
      }
      if (found.length > 0) {
        await rules.apply(spec);
        if (repair)
          this.#health = {
            ...this.#health,
            repairs: this.#health.repairs + 1,
            lastRepair: isoTime(clock.now()),
          };
        log("notice", `firewall rules ${repair ? "repaired" : "applied"}: ${found.join("; ")}`);
      }
      this.#set(true);
      this.#complaint = null;
    } catch (error) {
      // Said once, not every two seconds.
      const message = messageOf(error);
      if (message !== this.#complaint) log("error", `the firewall rules cannot be put right: ${message}`);
      this.#complaint = message;
      this.#set(false);
    }
    return this.#health.healthy;
  }

  async #currentSpec(anew: boolean): Promise<Spec> {
    const { rules, clock, remembered, remember, log } = this.#options;
    const stamp = rules.configurationStamp();
    const now = clock.now();
    const age = now - this.#resolvedAtMs;
    // A clock that was set back must not keep an old answer for ever.
    const fresh = stamp === this.#stamp && age >= 0 && age < RESOLVE_INTERVAL_MS;
    if (this.#spec !== null && fresh && !anew) return this.#spec;
    const changed = stamp !== this.#stamp;
    this.#stamp = stamp;
    this.#resolvedAtMs = now;
    try {
      const spec = await rules.resolve();
      // The same object where it means the same, so that a change can be told by identity.
      if (this.#spec !== null && JSON.stringify(spec) === JSON.stringify(this.#spec)) return this.#spec;
      remember(spec);
      this.#spec = spec;
      return spec;
    } catch (error) {
      const last = this.#spec ?? remembered;
      if (last === null) throw error;
      if (changed) log("error", `kept the firewall rules as they were: ${messageOf(error)}`);
      this.#spec = last;
      return last;
    }
  }

  #set(healthy: boolean): void {
    this.#health = { ...this.#health, healthy, lastCheck: isoTime(this.#options.clock.now()) };
    this.#options.report(this.#health);
  }
}
