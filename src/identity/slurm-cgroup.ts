/**
 * The cgroup of a Slurm job in the path of a process's cgroup, as Slurm's plugin cgroup/v2 makes it: up to Slurm 25.11
 * `/system.slice/slurmstepd.scope/job_12/step_0/user/task_0`, from 26.05 on
 * `/system.slice/slurmstepd.scope/s62DM8BYG18900/step_0/…` (Slurm's CHANGELOG/slurm-26.05.md, and tried with 26.05.5). Where
 * several slurmd share a machine, the node's name is in front of `slurmstepd.scope`. No other place counts, because users make
 * cgroups of any name below user.slice.
 */

/** The scope, what Slurm has made in it, and the step. */
const SCOPE = /^(\/system\.slice\/(?:[^/]+_)?slurmstepd\.scope\/([^/]+))(?:\/step_([^/]+))?(?:\/|$)/;
const BY_NUMBER = /^job_(\d+)$/;
/** `s` and 13 digits of Crockford's base 32, of which the first has four bits (Slurm, src/common/sluid.c, sluid2str()). */
const BY_SLUID = /^s[0-9A-F][0-9A-HJKMNP-TV-Z]{12}$/;
/** The SLUID of a job that has none. Several jobs can have it. */
const NO_SLUID = "s0000000000000";

/** A place in slurmstepd's scope. */
export interface SlurmCgroup {
  /** The path of the job's cgroup. */
  readonly job: string;
  /** The job's number, where the path has it. */
  readonly id: string | null;
  /** The job's SLUID, where the path has that. */
  readonly sluid: string | null;
  /** The step as Slurm writes it: `0`, `batch`, `extern`, `interactive`; null for the job's own cgroup. */
  readonly step: string | null;
}

/** Where in slurmstepd's scope a cgroup is; null where it is elsewhere. */
export function slurmCgroupOf(path: string | null): SlurmCgroup | null {
  const [, job, name, step = null] = path === null ? [] : (SCOPE.exec(path) ?? []);
  if (job === undefined || name === undefined) return null;
  const sluid = BY_SLUID.test(name) && name !== NO_SLUID ? name : null;
  return { job, id: BY_NUMBER.exec(name)?.[1] ?? null, sluid, step };
}

/**
 * The name of the Slurm job in a cgroup's path: its number, or its SLUID, which Slurm's commands take as well from 26.05 on; null
 * where there is neither. It is for people, and for tests of a configuration. The proxy itself looks up the number (`jobOf`).
 */
export function slurmJobNameOf(path: string | null): string | null {
  const at = slurmCgroupOf(path);
  return at?.id ?? at?.sluid ?? null;
}
