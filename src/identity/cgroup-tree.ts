import { type BigIntStats, readFileSync, statSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import type { Cgroup, CgroupTree } from "./cgroup.ts";

/** Where cgroup v2 is mounted (proc(5), mountinfo), or null where it is not. */
export function cgroupMount(mountinfo: string = readFileSync("/proc/self/mountinfo", "utf8")): string | null {
  for (const line of mountinfo.split("\n")) {
    const [left = "", right = ""] = line.split(" - ");
    // Octal escapes stand for blanks in a path; no distribution mounts cgroup2 at such a path.
    if (right.startsWith("cgroup2 ")) return left.split(" ")[4] ?? null;
  }
  return null;
}

/** The most directories that one pass outside of the user subtrees reads. A node has fewer; the limit makes each pass end. */
const OUTSIDE_BUDGET = 100_000;
/** The most directories that one pass of one user subtree reads, the top one included. */
const SUBTREE_BUDGET = 4_096;

/** Where logind keeps a user's sessions, and systemd the user's own manager (systemd.special(7), user@.service(5)). */
const USER_SLICE = /^\/user\.slice\/user-\d+\.slice$/;
/** A Slurm job, by whatever name; see `slurmCgroupOf`. */
const JOB = /^\/system\.slice\/(?:[^/]+_)?slurmstepd\.scope\/[^/]+$/;
/** S_IWGRP | S_IWOTH */
const WRITABLE_BY_OTHERS = 0o022n;

/**
 * The tree below `mount`, in two parts (see {@link CgroupTree}). The top of a user subtree, which a user can fill, is the
 * topmost directory of one of these kinds:
 *
 * - `/user.slice/user-UID.slice`: each login adds a scope, and `user@UID.service` is delegated to the user.
 * - `/system.slice/…slurmstepd.scope/JOB`: each srun adds a step, and a step may be delegated.
 * - One that belongs to another user than the mount does, or that its group or everybody may write: as systemd delegates
 *   (`Delegate=` with `User=`, systemd.resource-control(5)). A user who may not write a directory cannot make others in it.
 *
 * Only root can make other directories. No user can make another subtree, because the top of each is in a directory of root's.
 */
export function cgroupTree(mount: string): CgroupTree {
  return {
    async *outside() {
      const owner = (await statOf(mount))?.uid;
      yield* breadthFirst(
        mount,
        "",
        OUTSIDE_BUDGET,
        (path, status) =>
          USER_SLICE.test(path) ||
          JOB.test(path) ||
          status.uid !== owner ||
          (status.mode & WRITABLE_BY_OTHERS) !== 0n,
      );
    },
    below: (subtree) => breadthFirst(mount, subtree, SUBTREE_BUDGET, () => false),
    isThere(path, id) {
      try {
        return statSync(`${mount}${path}`, { bigint: true, throwIfNoEntry: false })?.ino === id;
      } catch {
        return true;
      }
    },
  };
}

/** At most `budget` directories from `top` down, breadth first. Keeps no file open between two of them. */
async function* breadthFirst(
  mount: string,
  top: string,
  budget: number,
  isSubtree: (path: string, status: BigIntStats) => boolean,
): AsyncGenerator<Cgroup, void, undefined> {
  const paths = [top];
  for (const path of paths) {
    const status = await statOf(`${mount}${path}`);
    if (status === null) continue;
    // The root directory is never a user subtree, whatever its mode is.
    const subtree = path !== "" && isSubtree(path, status);
    yield { id: status.ino, path: path === "" ? "/" : path, subtree };
    if (subtree || paths.length >= budget || !isWorthReading(status, budget)) continue;
    for (const name of await directoriesIn(`${mount}${path}`)) {
      if (paths.length >= budget) break;
      paths.push(`${path}/${name}`);
    }
  }
}

/**
 * Whether a directory has subdirectories, and no more than the budget. The number of links says it: 2, and one for each
 * subdirectory (kernfs_refresh_inode in fs/kernfs/inode.c); a number below 2, on other file systems, says nothing. A
 * directory is always read as a whole, so one that is longer than the budget would delay everybody, and is not read.
 */
function isWorthReading(status: BigIntStats, budget: number): boolean {
  return status.nlink < 2n || (status.nlink > 2n && status.nlink - 2n <= BigInt(budget));
}

/** Null where the cgroup was removed during the walk. */
const statOf = (path: string): Promise<BigIntStats | null> => stat(path, { bigint: true }).catch(() => null);

async function directoriesIn(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}
