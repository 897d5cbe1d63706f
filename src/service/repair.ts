import type { Clock } from "../platform/clock.ts";
import { type FirewallHealth, type RepairKind, repairKind } from "../telemetry/firewall-health.ts";

/**
 * The watch over the firewall rules. It restores them whatever removes them, changes them or puts other rules before them.
 * Known rules, which hold uids as numbers, are restored first. The exempt users and the upstream are looked up afterwards,
 * because a directory that hangs must not leave the node open. Stateful; the rules and the reports are given to it.
 */

/** The milliseconds between two checks; a check takes a few milliseconds. The documented time until a repair is 30 s. */
export const CHECK_INTERVAL_MS = 2_000;
/** The milliseconds between two look-ups of the exempt users and the upstream: nothing reports a change of accounts. */
export const RESOLVE_INTERVAL_MS = 30_000;

/** The rules of the node. `Spec` is what they are built from. */
export interface WatchedRules<Spec> {
  /** The wanted rules. Throws where the configuration cannot be read. May wait for the account directory. */
  resolve(): Promise<Spec>;
  /** A value that changes with the configuration; cheap. */
  configurationStamp(): string;
  /**
   * Restores the rules that were last found right, where the kernel alone can do it: without a process, a look-up of a name or a
   * wait. Returns a line for each difference; none where all is right, or where only `deviations` and `apply` can tell.
   */
  restore(): readonly string[];
  /** A line for each thing that is wrong. Asks no directory. */
  deviations(spec: Spec): Promise<readonly string[]>;
  /** Applies all rules. Asks no directory. */
  apply(spec: Spec): Promise<void>;
}

export interface WatchOptions<Spec> {
  readonly rules: WatchedRules<Spec>;
  readonly clock: Clock;
  /** The rules that were last found right; null where none are remembered. */
  readonly remembered: Spec | null;
  /** Remembers the rules that are right, for a boot at which the configuration cannot be read. */
  readonly remember: (spec: Spec) => void;
  /** The last report of an earlier watch. */
  readonly before: FirewallHealth | null;
  readonly report: (health: FirewallHealth) => void;
  readonly log: (level: "notice" | "error", message: string) => void;
  /** A text that names who has changed rules since the last call; empty where that is unknown. */
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
  /** Another program has changed rules. The wanted rules may have changed too, for instance when HyperPod's agent starts. */
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
      repairsByKind: options.before?.repairsByKind ?? {},
    };
  }

  /** Whether a check or a refresh is under way. */
  get busy(): boolean {
    return this.#checking !== null || this.#refreshing !== null;
  }

  /** Whether a check is under way. A refresh may wait for a directory all the time. */
  get checking(): boolean {
    return this.#checking !== null;
  }

  /** Restores what can be restored at once. Never waits and never throws. */
  glance(): void {
    let found: readonly string[];
    try {
      found = this.#options.rules.restore();
    } catch (error) {
      // `check` finds the same difference, and repairs it with iptables.
      this.#complain(`the firewall rules cannot be put back at once: ${messageOf(error)}`);
      return;
    }
    if (found.length > 0) this.#repaired(found);
  }

  /**
   * Glances, compares the rules with the last wanted ones, and repairs them. Looks up neither users nor the upstream. Only one
   * check runs at a time; a second call waits for the first.
   *
   * @returns whether the rules are right now.
   */
  check(): Promise<boolean> {
    this.#checking ??= this.#check().finally(() => {
      this.#checking = null;
    });
    return this.#checking;
  }

  /** Resolves when no check is under way, so that a repair is completed and logged before the process ends. */
  async checked(): Promise<void> {
    await this.#checking;
  }

  /**
   * Reads the configuration and looks up the exempt users and the upstream where that is due, and applies the rules. Only one
   * runs at a time; while it waits, `glance` and `check` continue with the last wanted rules.
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
      // The rules may have been removed since the glance above. The kernel alone restores them in a millisecond, iptables in
      // hundreds.
      this.glance();
      const found = await rules.deviations(spec);
      if (found.length === 0) return true;
      // A refresh may have applied other rules in between, and reports on them itself.
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
      // A check that is under way still compares with the former rules.
      await this.#checking;
      this.#spec = spec;
      const found = await rules.deviations(spec);
      if (found.length === 0) return true;
      await rules.apply(spec);
      log("notice", `firewall rules applied: ${found.join("; ")}`);
      return true;
    });
  }

  /** @param action returns whether it found the rules right. */
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

  /** Logs a failure once, not every two seconds. */
  #complain(message: string): void {
    if (message !== this.#complaint) this.#options.log("error", message);
    this.#complaint = message;
  }

  #repaired(found: readonly string[]): void {
    const { clock, log, changedBy } = this.#options;
    this.#moved = true;
    const repairsByKind: Partial<Record<RepairKind, number>> = { ...this.#health.repairsByKind };
    for (const kind of found.map(repairKind)) repairsByKind[kind] = (repairsByKind[kind] ?? 0) + 1;
    this.#health = {
      ...this.#health,
      repairs: this.#health.repairs + 1,
      repairsByKind,
      lastRepair: isoTime(clock.now()),
    };
    const by = changedBy?.() ?? "";
    log("notice", `firewall rules repaired: ${found.join("; ")}${by === "" ? "" : ` (${by})`}`);
    this.#set(true);
  }

  /** The wanted rules. While they are equal, the same object is returned, so that callers see a change by comparing with ===. */
  async #currentSpec(): Promise<Spec> {
    const { rules, clock, remembered, remember, log } = this.#options;
    const stamp = rules.configurationStamp();
    const now = clock.now();
    const age = now - this.#resolvedAtMs;
    // A negative age means that the clock was set back. Without this check the old answer would count as fresh for too long.
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
