import { slurmCgroupOf } from "../identity/slurm-cgroup.ts";
import type { Decided } from "../imds/decisions.ts";
import type { RequestEvent } from "../imds/request-event.ts";
import type { Clock } from "../platform/clock.ts";
import type { Rules } from "../rules/decide.ts";
import type { SessionBroker } from "../sessions/broker.ts";
import { sessionKey } from "../sessions/key.ts";

/** How often it is looked which jobs have ended, in milliseconds. */
const LOOK_MS = 5_000;
/** Sessions of which it is known to whom they were given: as many as the broker keeps. */
const MAX_SESSIONS = 8_192;

/** A session that is given. */
interface Given {
  /** What was decided for who got it last. */
  decided: Decided;
  /** False once it is forgotten. */
  kept: boolean;
}

export interface GivenSessionsOptions {
  readonly broker: Pick<SessionBroker, "forget">;
  readonly clock: Clock;
  /** Whether a cgroup is there. May reject: then it is taken to be. @param path below the mount of cgroup v2. */
  readonly hasCgroup: (path: string) => Promise<boolean>;
}

/**
 * Forgets sessions that nobody is given any more: those of a Slurm job when the job's cgroup is gone, and those that a new
 * configuration gives to nobody. They are not renewed, and nobody gets them again; what was handed out stays valid at AWS until its
 * end.
 */
export class GivenSessions {
  readonly #options: GivenSessionsOptions;
  /** By session key, in the order in which they were last noted: what was decided for who got it last. */
  readonly #given = new Map<string, Given>();
  /** Of these, the cgroups of the Slurm jobs that have the session, where it is a job's. */
  readonly #jobs = new Map<string, Set<string>>();
  /** What was noted by each decision: most requests are by one of these. */
  readonly #noted = new WeakMap<Decided, Given>();
  /** The rules that hold; null until {@link follow} is called. */
  #rules: Rules | null = null;
  #cancel: () => void;

  constructor(options: GivenSessionsOptions) {
    this.#options = options;
    this.#cancel = options.clock.schedule(LOOK_MS, () => void this.#look());
  }

  /** Notes whose session a request's answer gave. */
  note({ decided, accessKeyId }: Pick<RequestEvent, "decided" | "accessKeyId">): void {
    if (accessKeyId === null || decided === null || this.#noted.get(decided)?.kept === true) return;
    const { decision, identity } = decided;
    if (decision.kind !== "role") return;
    const key = sessionKey(decision.request);
    // Decided by former rules: new ones were loaded while STS was asked.
    if (this.#rules !== null && !isGiven(this.#rules, decided, key)) {
      if (!this.#given.has(key)) this.#options.broker.forget(decision.request, "withdrawn");
      return;
    }
    const job = decision.ofJob ? slurmCgroupOf(identity.cgroup)?.job : undefined;
    if (job !== undefined) this.#jobs.set(key, (this.#jobs.get(key) ?? new Set()).add(job));
    const given = this.#given.get(key) ?? { decided, kept: true };
    given.decided = decided;
    this.#noted.set(decided, given);
    this.#given.delete(key);
    this.#given.set(key, given);
    for (const oldest of this.#given.keys()) {
      if (this.#given.size <= MAX_SESSIONS) break;
      this.#forget(oldest);
    }
  }

  /** To be called when new rules hold: forgets the sessions that they do not give to whom the former ones gave them. */
  follow(rules: Rules): void {
    this.#rules = rules;
    for (const [key, { decided }] of [...this.#given])
      if (!isGiven(rules, decided, key)) this.#end(key, "withdrawn");
  }

  stop(): void {
    this.#cancel();
  }

  /** Forgets the sessions of jobs that have ended. */
  async #look(): Promise<void> {
    for (const path of new Set([...this.#jobs.values()].flatMap((jobs) => [...jobs]))) {
      // Where it cannot be told, the job counts as running until the next look.
      if (await this.#options.hasCgroup(path).catch(() => true)) continue;
      for (const [key, jobs] of [...this.#jobs])
        if (jobs.delete(path) && jobs.size === 0) this.#end(key, "job-ended");
    }
    this.#cancel = this.#options.clock.schedule(LOOK_MS, () => void this.#look());
  }

  #end(key: string, reason: "job-ended" | "withdrawn"): void {
    const decision = this.#given.get(key)?.decided.decision;
    this.#forget(key);
    if (decision?.kind === "role") this.#options.broker.forget(decision.request, reason);
  }

  #forget(key: string): void {
    const given = this.#given.get(key);
    // Who asks again is noted again, whoever of those who had the session.
    if (given !== undefined) given.kept = false;
    this.#given.delete(key);
    this.#jobs.delete(key);
  }
}

/** Whether rules give this session to whom it was given. */
function isGiven(
  rules: Rules,
  { identity, instanceId = null, region = null }: Decided,
  key: string,
): boolean {
  const decision = rules.decide(identity, instanceId, region);
  return decision.kind === "role" && sessionKey(decision.request) === key;
}
