import { closeSync, constants, openSync } from "node:fs";
import { runProgram } from "../platform/programs.ts";
import { textIfAny } from "../platform/text-file.ts";

/**
 * Finds the job of a Slurm step in the title of its slurmstepd: `slurmstepd: [12.batch]` (Slurm,
 * src/slurmd/slurmstepd/slurmstepd.c, _set_job_log_prefix()). slurmstepd is root's process in the step's cgroup `slurm`, beside
 * `user` with the user's processes. Only root can move a process into it, so that no user's process is ever there.
 *
 * The title is in the process's memory (/proc/PID/cmdline), and reading it may block. So it is read only of a process that is
 * known to be slurmstepd, and by head(1), which can be killed. The children of slurmstepd, which become the tasks, are in the
 * same cgroup for a moment; they are passed over.
 */

/** A caller may give up earlier and ask again: by then SluidJobs has the answer. */
const TIMEOUT_MS = 20_000;
const LONGEST_TITLE = 128;
/** The most processes of the cgroup that are examined: slurmstepd, and its children that are not moved yet. */
const MOST_PROCESSES = 64;

/** The job's number, or why it cannot be told. */
export type StepsJob = { readonly slurmJobId: string } | { readonly why: string };

/** The sources of a look-up; each default is this machine's. */
export interface StepDaemonSource {
  /** Where processes are. Default /proc. */
  readonly proc?: string;
  /** The text of a process's command line; null where it cannot be read in time. Default by head(1). */
  readonly readTitle?: (path: string) => Promise<string | null>;
}

/** The uids of /proc/PID/status: real, effective, saved and of the file system; and the parent. */
interface Status {
  readonly realUid: number;
  readonly savedUid: number;
  readonly parent: number;
}

/** What /proc/PID/status says (proc_pid_status(5)); null where the process is gone or hidden. */
export function parseStatus(text: string | null): Status | null {
  const uids = /^Uid:\t(\d+)\t\d+\t(\d+)\t/m.exec(text ?? "");
  const parent = /^PPid:\t(\d+)$/m.exec(text ?? "");
  if (uids === null || parent === null) return null;
  return { realUid: Number(uids[1]), savedUid: Number(uids[2]), parent: Number(parent[1]) };
}

/** The job in a title, where the title names this step; else null. */
export function jobOfTitle(title: string, step: string): string | null {
  // NULs follow the text, in place of the former arguments.
  const [, id, itsStep] = /^slurmstepd: \[(\d{1,10})\.([^\]]+)\]\0*$/.exec(title) ?? [];
  return id !== undefined && Number(id) > 0 && itsStep === step ? id : null;
}

/**
 * @param mount where cgroup v2 is mounted.
 * @param stepPath the path of the step's cgroup below it.
 * @param step the step as the path has it: `0`, `batch`, `extern`.
 */
export async function jobOfStep(
  mount: string,
  stepPath: string,
  step: string,
  { proc = "/proc", readTitle = readByHead }: StepDaemonSource = {},
): Promise<StepsJob> {
  const cgroup = `${stepPath}/slurm`;
  const pids = (textIfAny(`${mount}${cgroup}/cgroup.procs`) ?? "")
    .split("\n")
    .map(Number)
    .filter((pid) => pid > 0);
  if (pids.length === 0) return { why: "no slurmstepd of its step runs any more" };
  if (pids.length > MOST_PROCESSES) return { why: `${pids.length} processes are where slurmstepd is alone` };
  const found: Pinned[] = [];
  try {
    for (const pid of pids) {
      const pinned = Pinned.open(proc, pid);
      if (pinned === null) continue;
      found.push(pinned);
    }
    const daemons = found.filter((one) => one.isDaemon(cgroup, pids));
    const [daemon] = daemons;
    if (daemon === undefined) {
      return parseStatus(textIfAny(`${proc}/1/status`)) === null
        ? { why: `${proc} hides root's processes from the proxy (hidepid= or ProtectProc=)` }
        : { why: "no process of root's is where its step's slurmstepd would be" };
    }
    if (daemons.length > 1) return { why: "more than one process is where slurmstepd is alone" };
    const title = await readTitle(`${proc}/${daemon.pid}/cmdline`);
    if (title === null) return { why: `the title of process ${daemon.pid} was not told in time` };
    // Where it still is that process, the pid in the path was its own meanwhile.
    if (!daemon.isDaemon(cgroup, pids)) return { why: "its step's slurmstepd has just ended" };
    const slurmJobId = jobOfTitle(title, step);
    return slurmJobId === null
      ? { why: `process ${daemon.pid}, its step's slurmstepd, does not name a job in its title` }
      : { slurmJobId };
  } finally {
    for (const pinned of found) pinned.close();
  }
}

/** A process, by its open directory in /proc. Reads there are of this process, or fail, even where its pid was reused. */
class Pinned {
  readonly pid: number;
  readonly #descriptor: number;

  private constructor(pid: number, descriptor: number) {
    this.pid = pid;
    this.#descriptor = descriptor;
  }

  static open(proc: string, pid: number): Pinned | null {
    try {
      return new Pinned(pid, openSync(`${proc}/${pid}`, constants.O_RDONLY | constants.O_DIRECTORY));
    } catch {
      return null;
    }
  }

  /** Whether it is a process of root in this cgroup, and its parent is not in the cgroup. */
  isDaemon(cgroup: string, pids: readonly number[]): boolean {
    // slurmstepd takes the user's effective uid now and then; its real and saved ones stay root's.
    const status = parseStatus(this.#text("status"));
    if (status === null || status.realUid !== 0 || status.savedUid !== 0) return false;
    return (
      this.#text("cgroup")?.split("\n").includes(`0::${cgroup}`) === true && !pids.includes(status.parent)
    );
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  #text(name: string): string | null {
    return textIfAny(`/proc/self/fd/${this.#descriptor}/${name}`);
  }
}

async function readByHead(path: string): Promise<string | null> {
  const { exitCode, stdout } = await runProgram(["head", "-c", String(LONGEST_TITLE), path], {
    timeoutMs: TIMEOUT_MS,
  });
  // A signal means that the time limit was reached. Any other failure means that the process has ended.
  if (exitCode > 128) return null;
  return exitCode === 0 ? stdout : "";
}
