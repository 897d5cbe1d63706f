import { type FoundJob, type SluidJobs, unknown } from "./sluid-jobs.ts";
import { slurmCgroupOf } from "./slurm-cgroup.ts";
import { systemUnitOf } from "./unit.ts";

/** slurmd's service, by the names that its packages, templates and platforms give it: `slurmd.service`, `slurmd@NODE.service`. */
const SLURMD = /^slurmd\b.*\.service$/;

/**
 * The Slurm job of a caller, or why it cannot be told whether there is one.
 *
 * Slurm moves each step of a job out of slurmd's own cgroup where it knows cgroup v2 (22.05 and newer). Where it does not, a
 * job's processes stay in the cgroup of slurmd.service. So a user's process there belongs to a job, and it is not known to which.
 * Root's processes there are the prolog and the epilog, which are outside of the job.
 *
 * @param path the caller's cgroup; null where it is not known, and then nothing is known of the job either.
 * @param nodeProblem why no job can be known on this node, by its Slurm's settings; null where there is no sign of that.
 * @param sluids finds the job of a SLUID; null where nothing does.
 */
export function jobOf(
  path: string | null,
  uid: number,
  nodeProblem: string | null,
  sluids: Pick<SluidJobs, "resolve"> | null,
): FoundJob | Promise<FoundJob> {
  const at = slurmCgroupOf(path);
  if (at !== null) {
    if (at.id !== null) return { slurmJobId: at.id };
    return sluids?.resolve(at, uid) ?? unknown(at.job, "nothing here looks it up");
  }
  if (path === null) return { slurmJobId: null };
  if (nodeProblem !== null) return { slurmJobId: null, jobUnknown: nodeProblem };
  const unit = systemUnitOf(path);
  return unit !== null && SLURMD.test(unit) && uid !== 0
    ? {
        slurmJobId: null,
        jobUnknown: `the caller is in ${unit} itself, where only a Slurm that makes no cgroup v2 for a job leaves users' processes`,
      }
    : { slurmJobId: null };
}
