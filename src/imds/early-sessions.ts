import { type KnownCaller, shareOf, subjectOf } from "../identity/caller.ts";
import type { FirstAttempt, SessionBroker } from "../sessions/broker.ts";
import type { Decisions, Policy } from "./decisions.ts";

/** Milliseconds for which the look-up of a caller's first session is remembered, and for how many callers. */
const LOOKED_MS = 1_000;
const MAX_LOOKED = 4_096;

/** The look-up of a caller's first session. */
interface Looked {
  readonly atMs: number;
  /** Null as soon as it is known that there is nothing to wait for. */
  attempt: Promise<FirstAttempt | null> | null;
}

/**
 * Begins the session of a caller who is expected to ask for credentials. A failure is not reported here: it is reported to the
 * request that needs the session.
 */
export class EarlySessions {
  readonly #decisions: Decisions;
  readonly #broker: SessionBroker;
  /** By caller; valid under `#lookedUnder` alone. */
  readonly #looked = new Map<string, Looked>();
  #lookedUnder: Policy | null = null;

  constructor(decisions: Decisions, broker: SessionBroker) {
    this.#decisions = decisions;
    this.#broker = broker;
  }

  /** Begins the session of a caller who asks for a token. Null where there is nothing to wait for. */
  ofToken(caller: KnownCaller, policy: Policy, nowMs: number): Promise<FirstAttempt | null> | null {
    // Root, who has the instance role, asks the proxy for its health alone.
    if (caller.kind === "owner" && caller.owner.uid === 0) return null;
    if (this.#lookedUnder !== policy) {
      this.#lookedUnder = policy;
      this.#looked.clear();
    }
    const cgroup = caller.kind === "owner" && policy.rules.needs.cgroup ? caller.owner.cgroupId : "";
    const key = `${subjectOf(caller)} ${cgroup}`;
    const known = this.#looked.get(key);
    if (known !== undefined && Math.abs(nowMs - known.atMs) < LOOKED_MS) return known.attempt;
    const looked: Looked = { atMs: nowMs, attempt: this.begin(caller, policy, nowMs) };
    void looked.attempt?.then((attempt) => {
      if (attempt === null) looked.attempt = null;
    });
    if (this.#looked.size >= MAX_LOOKED) this.#looked.clear();
    this.#looked.set(key, looked);
    return looked.attempt;
  }

  /**
   * Begins the session of a caller, whoever they are. Never rejects.
   *
   * @param leave see SessionBroker.prepareEarly.
   */
  async begin(caller: KnownCaller, policy: Policy, nowMs: number, leave = 0): Promise<FirstAttempt | null> {
    try {
      const { decision } = await this.#decisions.decide(caller, policy, nowMs);
      return decision.kind === "role"
        ? this.#broker.prepareEarly(decision.request, shareOf(caller), leave)
        : null;
    } catch {
      return null;
    }
  }
}
