import { readFileSync, rmSync, statSync } from "node:fs";

/** The files that useradd(8) and its like lock by a file beside each, `FILE.lock`, which holds their pid. */
const LOCKED = ["passwd", "shadow", "group", "gshadow"];
/** sysconf(_SC_CLK_TCK) on Linux: the unit of times in /proc/PID/stat. */
const TICKS_PER_SECOND = 100;
/** Added to the comparison of two times, because both are rounded. */
const ROUNDED_MS = 1_000;

/**
 * Removes stale locks, left by a power cut, whose pid belongs to an unrelated process of this boot. The tools themselves take over
 * a lock whose process is gone (shadow, lib/commonio.c, do_lock_file), but they refuse for as long as any process has its pid.
 *
 * @param directory default `/etc`.
 * @returns the paths of what was removed.
 */
export function removeInheritedLocks(directory = "/etc"): readonly string[] {
  const paths = LOCKED.map((name) => `${directory}/${name}.lock`).filter(isInherited);
  for (const path of paths) rmSync(path, { force: true });
  return paths;
}

/** Whether the process that has the lock's pid was started after the lock was written. */
function isInherited(path: string): boolean {
  try {
    const writtenMs = statSync(path).mtimeMs;
    const pid = /^\d+/.exec(readFileSync(path, "latin1"))?.[0];
    if (pid === undefined) return false;
    // proc(5): the name in parentheses may hold anything; starttime is the 22nd field, the 20th after it.
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)?.split(" ") ?? [];
    const bootedS = /^btime (\d+)$/m.exec(readFileSync("/proc/stat", "latin1"))?.[1];
    const startedMs = Number(bootedS) * 1_000 + (Number(fields[19]) * 1_000) / TICKS_PER_SECOND;
    return startedMs > writtenMs + ROUNDED_MS;
  } catch {
    // No such lock, or no such process.
    return false;
  }
}
