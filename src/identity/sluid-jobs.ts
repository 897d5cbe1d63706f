import type { Clock } from "../platform/clock.ts";
import { FairSlots } from "../platform/fair-slots.ts";
import type { SlurmCgroup } from "./slurm-cgroup.ts";
import type { StepsJob } from "./step-daemon.ts";

/** Jobs that are kept, the oldest dropped first: more than run on a node at once. */
const MAX_JOBS = 4_096;
/** Milliseconds for which a failed look-up is remembered. A caller who asks again within them costs nothing. */
const UNKNOWN_LIFE_MS = 1_000;
/** The most look-ups of steps at once, in all and for one uid. */
const MOST_AT_ONCE = 8;
const MOST_PER_UID = 2;

/** The part of an identity that a look-up finds. */
export type FoundJob = { readonly slurmJobId: string | null; readonly jobUnknown?: string };

/** Looks a step's job up; see `jobOfStep`. May reject. */
export type LookUpStep = (stepPath: string, step: string) => Promise<StepsJob>;

/**
 * The jobs of Slurm 26.05 and later, whose cgroups have a SLUID in place of the job's number. At the first request from a job,
 * its step's slurmstepd tells the job's number (`jobOfStep`). The answer is kept, because a SLUID is never reused
 * (src/common/sluid.c: the time in milliseconds, a counter and the cluster).
 */
export class SluidJobs {
  readonly #lookUp: LookUpStep;
  readonly #clock: Pick<Clock, "bootMs">;
  readonly #slots = new FairSlots<number>(MOST_AT_ONCE, MOST_PER_UID);
  /** By the path of the job's cgroup. */
  readonly #known = new Map<string, FoundJob>();
  /** By the path of the step's cgroup, the oldest first. */
  readonly #unknown = new Map<string, { readonly sinceMs: number; readonly found: FoundJob }>();
  readonly #asked = new Map<string, Promise<FoundJob>>();

  constructor(lookUp: LookUpStep, clock: Pick<Clock, "bootMs">) {
    this.#lookUp = lookUp;
    this.#clock = clock;
  }

  /** The job; synchronous where it is kept. @param uid the caller's: a user with many look-ups delays only their own. */
  resolve({ job, sluid, step }: SlurmCgroup, uid: number): FoundJob | Promise<FoundJob> {
    const known = this.#known.get(job);
    if (known !== undefined) return known;
    if (sluid === null || step === null)
      return unknown(job, "its name is neither a job's number nor a SLUID");
    const path = `${job}/step_${step}`;
    const before = this.#unknown.get(path);
    if (before !== undefined) {
      const ageMs = this.#clock.bootMs() - before.sinceMs;
      if (ageMs < UNKNOWN_LIFE_MS) return before.found;
      this.#unknown.delete(path);
    }
    const asked = this.#asked.get(path);
    if (asked !== undefined) return asked;
    const answer = this.#ask(job, path, step, uid).finally(() => this.#asked.delete(path));
    this.#asked.set(path, answer);
    return answer;
  }

  async #ask(job: string, path: string, step: string, uid: number): Promise<FoundJob> {
    const release = await this.#slots.acquire(uid);
    let said: StepsJob;
    try {
      said = await this.#lookUp(path, step);
    } catch (error) {
      said = { why: error instanceof Error ? error.message : "unknown" };
    } finally {
      release();
    }
    if ("slurmJobId" in said) {
      keep(this.#known, job, said);
      return said;
    }
    const found = unknown(job, said.why);
    keep(this.#unknown, path, { sinceMs: this.#clock.bootMs(), found });
    return found;
  }
}

/** A job whose number cannot be told. */
export const unknown = (job: string, why: string): FoundJob => ({
  slurmJobId: null,
  jobUnknown: `the caller is in ${job}, and the number of this job cannot be told: ${why}`,
});

function keep<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  if (map.size <= MAX_JOBS) return;
  for (const oldest of map.keys()) {
    map.delete(oldest);
    return;
  }
}
