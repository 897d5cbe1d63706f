import type { Clock } from "../platform/clock.ts";
import type { FirewallHealth } from "../telemetry/firewall-health.ts";

/**
 * The watch over the firewall rules: whatever removes them, changes them or puts something before them is undone. What
 * counts is that known rules come back first, from numbers; who is exempt and where the upstream is are asked afterwards,
 * since a directory that hangs must not keep the node open. Stateful; what it watches, and where it reports to, are given
 * to it.
 */

/** How often it looks. The promise is 30 s; a look costs a few milliseconds. */
export const CHECK_INTERVAL_MS = 2_000;
/** How often the node is asked anew who is exempt and where the upstream is: accounts come and go without a sign. */
export const RESOLVE_INTERVAL_MS = 30_000;

/** The rules of the node. `Spec` is whatever they are built from. */
export interface WatchedRules<Spec> {
  /** What the rules should be now; throws where the configuration cannot be read. May take as long as a directory does. */
  resolve(): Promise<Spec>;
  /** Changes whenever the configuration does; cheap. */
  configurationStamp(): string;
  /**
   * Puts back what was right when it was last seen, where that can be done at once: by the kernel alone, with no process, no
   * look-up of a name and no waiting. In words, what was not as it should be; nothing where all is right, or where it has to
   * be left to `deviations` and `apply`.
   */
  restore(): readonly string[];
  /** In words, each thing that is not as it should be. Asks no directory. */
  deviations(spec: Spec): Promise<readonly string[]>;
  /** Puts everything right at once. Asks no directory. */
  apply(spec: Spec): Promise<void>;
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
  /** Who has changed rules since this was asked last, in words; empty where nobody is known. */
  readonly changedBy?: () => string;
}

const isoTime = (ms: number): string => new Date(ms).toISOString();
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** One watch. */
export class FirewallWatch<Spec> {
  readonly #options: WatchOptions<Spec>;
  #health: FirewallHealth;
  #spec: Spec | null = null;
  #stamp = "";
  #resolvedAtMs = Number.NEGATIVE_INFINITY;
  /** Somebody has changed the rules: what they should be may have changed with them, as when HyperPod's agent comes up. */
  #moved = false;
  #complaint: string | null = null;
  #checking: Promise<boolean> | null = null;
  #refreshing: Promise<void> | null = null;

  constructor(options: WatchOptions<Spec>) {
    this.#options = options;
    this.#health = {
      repairs: options.before?.repairs ?? 0,
      lastRepair: options.before?.lastRepair ?? null,
      lastCheck: options.before?.lastCheck ?? null,
      healthy: false,
    };
  }

  /** Whether a check or a refresh is under way, so that other things than events may be waited for. */
  get busy(): boolean {
    return this.#checking !== null || this.#refreshing !== null;
  }

  /** Puts back what can be put back at once. Never waits, never throws. */
  glance(): void {
    let found: readonly string[];
    try {
      found = this.#options.rules.restore();
    } catch (error) {
      // `check` finds the same, and puts it right by iptables.
      this.#complain(`the firewall rules cannot be put back at once: ${messageOf(error)}`);
      return;
    }
    if (found.length > 0) this.#repaired(found);
  }

  /**
   * Glances, compares what is there with what should be, and puts it right: by what is known, without asking who that is.
   * One at a time; a second call waits for the first.
   *
   * @returns whether the rules are right now.
   */
  check(): Promise<boolean> {
    this.#checking ??= this.#check().finally(() => {
      this.#checking = null;
    });
    return this.#checking;
  }

  /** Resolves when no check is under way: a repair is finished and logged before the process ends. */
  async checked(): Promise<void> {
    await this.#checking;
  }

  /**
   * Asks the configuration and the node what the rules should be, where that is due, and brings them. One at a time, and
   * while it waits `glance` and `check` go on with what is known.
   */
  refresh(): Promise<void> {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = null;
    });
    return this.#refreshing;
  }

  /**
   * A check, and a refresh where it is due.
   *
   * @returns whether the rules are right now.
   */
  async round(): Promise<boolean> {
    await this.check();
    await this.refresh();
    return this.#health.healthy;
  }

  async #check(): Promise<boolean> {
    const { rules } = this.#options;
    this.glance();
    const spec = this.#spec;
    if (spec === null) return this.#health.healthy;
    return this.#attempt(async () => {
      if ((await rules.deviations(spec)).length === 0) return true;
      // It may have gone since the glance above: the kernel alone puts it back in a millisecond, iptables in hundreds.
      this.glance();
      const found = await rules.deviations(spec);
      if (found.length === 0) return true;
      // A refresh may have come in between: what it brings is its own affair.
      if (spec !== this.#spec) return false;
      await rules.apply(spec);
      this.#repaired(found);
      return true;
    });
  }

  async #refresh(): Promise<void> {
    const { rules, log } = this.#options;
    await this.#attempt(async () => {
      const known = this.#spec;
      const spec = await this.#currentSpec();
      if (spec === known) return false;
      // The check that may be under way is about what was known before.
      await this.#checking;
      this.#spec = spec;
      const found = await rules.deviations(spec);
      if (found.length === 0) return true;
      await rules.apply(spec);
      log("notice", `firewall rules applied: ${found.join("; ")}`);
      return true;
    });
  }

  /** @param action says whether it has seen the rules in order. */
  async #attempt(action: () => Promise<boolean>): Promise<boolean> {
    try {
      if (await action()) {
        this.#set(true);
        this.#complaint = null;
      }
    } catch (error) {
      this.#complain(`the firewall rules cannot be put right: ${messageOf(error)}`);
      this.#set(false);
    }
    return this.#health.healthy;
  }

  /** Said once, not every two seconds. */
  #complain(message: string): void {
    if (message !== this.#complaint) this.#options.log("error", message);
    this.#complaint = message;
  }

  #repaired(found: readonly string[]): void {
    const { clock, log, changedBy } = this.#options;
    this.#moved = true;
    this.#health = {
      ...this.#health,
      repairs: this.#health.repairs + 1,
      lastRepair: isoTime(clock.now()),
    };
    const by = changedBy?.() ?? "";
    log("notice", `firewall rules repaired: ${found.join("; ")}${by === "" ? "" : ` (${by})`}`);
    this.#set(true);
  }

  /** What the rules should be: the same object where it means the same, so that a change can be told by identity. */
  async #currentSpec(): Promise<Spec> {
    const { rules, clock, remembered, remember, log } = this.#options;
    const stamp = rules.configurationStamp();
    const now = clock.now();
    const age = now - this.#resolvedAtMs;
    // A clock that was set back must not keep an old answer for ever.
    const fresh = stamp === this.#stamp && age >= 0 && age < RESOLVE_INTERVAL_MS && !this.#moved;
    if (this.#spec !== null && fresh) return this.#spec;
    const changed = stamp !== this.#stamp;
    this.#stamp = stamp;
    this.#resolvedAtMs = now;
    this.#moved = false;
    try {
      const spec = await rules.resolve();
      if (this.#spec !== null && JSON.stringify(spec) === JSON.stringify(this.#spec)) return this.#spec;
      remember(spec);
      return spec;
    } catch (error) {
      const last = this.#spec ?? remembered;
      if (last === null) throw error;
      if (changed) log("error", `kept the firewall rules as they were: ${messageOf(error)}`);
      return last;
    }
  }

  #set(healthy: boolean): void {
    this.#health = { ...this.#health, healthy, lastCheck: isoTime(this.#options.clock.now()) };
    this.#options.report(this.#health);
  }
}
