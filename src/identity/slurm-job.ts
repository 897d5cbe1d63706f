import { slurmJobOf } from "./cgroup.ts";
import type { Identity } from "./types.ts";
import { systemUnitOf } from "./unit.ts";

/** slurmd's service, by the names that its packages, templates and platforms give it: `slurmd.service`, `slurmd@NODE.service`. */
const SLURMD = /^slurmd\b.*\.service$/;

/**
 * The Slurm job of a caller, or why it cannot be told whether there is one.
 *
 * Slurm moves each step of a job out of slurmd's own cgroup where it knows cgroup v2 (22.05 and newer). Where it does not, a job's
 * processes stay in the cgroup of slurmd.service: so a user's process there is a job's, and it is not known which. Root's are the
 * prolog and the epilog, which are outside of the job.
 *
 * @param path the caller's cgroup; null where it is not known, and then nothing is known of the job either.
 * @param nodeProblem why no job can be known on this node, by its Slurm's settings; null where there is no sign of that.
 */
export function jobOf(
  path: string | null,
  uid: number,
  nodeProblem: string | null,
): Pick<Identity, "slurmJobId" | "jobUnknown"> {
  const slurmJobId = slurmJobOf(path);
  if (slurmJobId !== null || path === null) return { slurmJobId };
  if (nodeProblem !== null) return { slurmJobId, jobUnknown: nodeProblem };
  const unit = systemUnitOf(path);
  return unit !== null && SLURMD.test(unit) && uid !== 0
    ? {
        slurmJobId,
        jobUnknown: `the caller is in ${unit} itself, where only a Slurm that makes no cgroup v2 for a job leaves users' processes`,
      }
    : { slurmJobId };
}
