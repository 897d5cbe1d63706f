import { spawnSync } from "node:child_process";
import { statSync } from "node:fs";
import { dirname, join } from "node:path";
import { findProgram, SYSTEM_PATH } from "../platform/programs.ts";
import { textIfAny } from "../platform/text-file.ts";
import { type CgroupHierarchy, cgroupHierarchy } from "./cgroup-hierarchy.ts";

/** Checks that this node's Slurm puts jobs into cgroups, by which the proxy recognizes them. */

/** Where slurm.conf is: Slurm's default, Debian's before Slurm 20, ParallelCluster's, PCS's. */
const PLACES = [
  "/etc/slurm/slurm.conf",
  "/etc/slurm-llnl/slurm.conf",
  "/opt/slurm/etc/slurm.conf",
  "/run/slurm/conf/slurm.conf",
];

/** The value of a key in a file of Slurm's: `Key=value`, the case of keys aside, `#` begins a comment (slurm.conf(5)). */
export function slurmValue(text: string, key: string): string | null {
  const pattern = new RegExp(`^\\s*${key}\\s*=\\s*([^#\\s]+)`, "gim");
  return [...text.matchAll(pattern)].at(-1)?.[1] ?? null;
}

/**
 * Why jobs cannot be recognized on this node; null where there is no sign of that. A missing slurm.conf is no sign: slurmd may
 * fetch it later.
 *
 * @param read the text of a file, or null where there is none.
 * @param version what `slurmd -V` prints, as `slurm 22.05.8`; null where there is no slurmd.
 * @param hierarchy the node's cgroups.
 */
export function slurmProblem(
  environment: Readonly<Record<string, string | undefined>> = process.env,
  read: (path: string) => string | null = textIfAny,
  version: () => string | null = slurmdVersion,
  hierarchy: () => CgroupHierarchy = cgroupHierarchy,
): string | null {
  const places = [environment["SLURM_CONF"] ?? "", ...PLACES].filter((path) => path !== "");
  for (const path of places) {
    const text = read(path);
    if (text === null) continue;
    const tracking = slurmValue(text, "ProctrackType") ?? "proctrack/cgroup";
    if (tracking.toLowerCase() !== "proctrack/cgroup") {
      return `${path} has ProctrackType=${tracking}, with which Slurm makes no cgroup for a job: no job is known, and a rule that needs one refuses; set ProctrackType=proctrack/cgroup`;
    }
    const cgroup = join(dirname(path), "cgroup.conf");
    const plugin = slurmValue(read(cgroup) ?? "", "CgroupPlugin") ?? "autodetect";
    if (plugin.toLowerCase() === "cgroup/v1" || plugin.toLowerCase() === "disabled") {
      return `${cgroup} has CgroupPlugin=${plugin}: jobs are known by their cgroup v2 alone, and a rule that needs one refuses; set CgroupPlugin=cgroup/v2 (Slurm 22.05 or newer)`;
    }
    const [found = "", year, month] = /(\d+)\.(\d+)\S*/.exec(version() ?? "") ?? [];
    if (found !== "" && (Number(year) < 22 || (Number(year) === 22 && Number(month) < 5))) {
      return `this node has Slurm ${found}, whose jobs have no cgroup v2: no job is known, and a rule that needs one refuses; Slurm 22.05 and newer have the plugin cgroup/v2`;
    }
    const mounted = hierarchy();
    if (mounted === "hybrid" || mounted === "v1") {
      return `this node has Slurm (${path}) and cgroups of version 1, into which Slurm then puts its jobs: no job is known, and a rule that needs one refuses; boot with systemd.unified_cgroup_hierarchy=1`;
    }
    return null;
  }
  return null;
}

/** What slurmd has said of itself, and which file it was: a reload waits for no program again that has told its version. */
let told: { readonly file: string; readonly text: string } | null = null;

/** ParallelCluster's and PCS's own place is not in root's PATH. */
function slurmdVersion(): string | null {
  const path = `${SYSTEM_PATH}:/opt/slurm/sbin`;
  const program = findProgram("slurmd", path);
  const found = program === null ? undefined : statSync(program, { throwIfNoEntry: false });
  if (program === null || found === undefined) return null;
  const file = `${program} ${found.ino} ${found.mtimeMs}`;
  if (told?.file === file) return told.text;
  const { status, stdout } = spawnSync(program, ["-V"], {
    encoding: "utf8",
    timeout: 5_000,
    env: { PATH: path },
  });
  if (status !== 0) return null;
  told = { file, text: stdout };
  return stdout;
}
