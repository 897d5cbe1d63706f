import type { Identity } from "../identity/types.ts";
import type { RequestEvent } from "../imds/handler.ts";
import type { Clock } from "../platform/clock.ts";
import type { Rules } from "../rules/decide.ts";
import type { SessionBroker } from "../sessions/broker.ts";
import { sessionKey } from "../sessions/key.ts";
import type { SessionRequest } from "../sessions/types.ts";

/** How often it is looked which jobs have ended, in milliseconds. */
const LOOK_MS = 5_000;
/** Sessions of which it is known to whom they were given: as many as the broker keeps. */
const MAX_SESSIONS = 8_192;

/** `/system.slice/slurmstepd.scope/job_12` of a path below it. */
const JOB_PATH = /^(.*\/job_\d+)(?:\/|$)/;

export interface GivenSessionsOptions {
  readonly broker: Pick<SessionBroker, "forget">;
  readonly clock: Clock;
  /** Whether a cgroup is there. May reject: then it is taken to be. @param path below the mount of cgroup v2. */
  readonly hasCgroup: (path: string) => Promise<boolean>;
}

interface Given {
  readonly request: SessionRequest;
  /** Who got it last, and the node's instance id and region by which the rules decided. */
  readonly identity: Identity;
  readonly instanceId: string | null;
  readonly region: string | null;
  /** The cgroups of the Slurm jobs that have the session; empty where it is no job's. */
  readonly jobs: Set<string>;
}

/**
 * Forgets sessions that nobody is given any more: those of a Slurm job when the job's cgroup is gone, and those that a new
 * configuration gives to nobody. They are not renewed, and nobody gets them again; what was handed out stays valid at AWS until its
 * end.
 */
export class GivenSessions {
  readonly #options: GivenSessionsOptions;
  /** By session key, in the order in which they were last noted. */
  readonly #given = new Map<string, Given>();
  /** Decisions that are noted: most requests are by one of these. */
  readonly #noted = new WeakSet<object>();
  #cancel: () => void;

  constructor(options: GivenSessionsOptions) {
    this.#options = options;
    this.#cancel = options.clock.schedule(LOOK_MS, () => void this.#look());
  }

  /** Notes whose session a request's answer gave. */
  note({ decided, accessKeyId }: Pick<RequestEvent, "decided" | "accessKeyId">): void {
    if (accessKeyId === null || decided === null || this.#noted.has(decided)) return;
    const { decision, identity, instanceId = null, region = null } = decided;
    if (decision.kind !== "role") return;
    this.#noted.add(decided);
    const key = sessionKey(decision.request);
    const jobs = this.#given.get(key)?.jobs ?? new Set<string>();
    const job = decision.ofJob ? JOB_PATH.exec(identity.cgroup ?? "")?.[1] : undefined;
    if (job !== undefined) jobs.add(job);
    this.#given.delete(key);
    this.#given.set(key, { request: decision.request, identity, instanceId, region, jobs });
    for (const oldest of this.#given.keys()) {
      if (this.#given.size <= MAX_SESSIONS) break;
      this.#given.delete(oldest);
    }
  }

  /** To be called when new rules hold: forgets the sessions that they do not give to whom the former ones gave them. */
  follow(rules: Rules): void {
    for (const [key, { request, identity, instanceId, region }] of [...this.#given]) {
      const decision = rules.decide(identity, instanceId, region);
      if (decision.kind === "role" && sessionKey(decision.request) === key) continue;
      this.#given.delete(key);
      this.#options.broker.forget(request, "withdrawn");
    }
  }

  stop(): void {
    this.#cancel();
  }

  /** Forgets the sessions of jobs that have ended. */
  async #look(): Promise<void> {
    for (const path of new Set([...this.#given.values()].flatMap(({ jobs }) => [...jobs]))) {
      // What is not known now is looked for again at the next look.
      if (await this.#options.hasCgroup(path).catch(() => true)) continue;
      for (const [key, { request, jobs }] of [...this.#given]) {
        if (!jobs.delete(path) || jobs.size > 0) continue;
        this.#given.delete(key);
        this.#options.broker.forget(request, "job-ended");
      }
    }
    this.#cancel = this.#options.clock.schedule(LOOK_MS, () => void this.#look());
  }
}
