import { type BigIntStats, readFileSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import type { Cgroup, CgroupTree } from "./cgroup.ts";

/** Where cgroup v2 is mounted (proc(5), mountinfo), or null where it is not. */
export function cgroupMount(mountinfo: string = readFileSync("/proc/self/mountinfo", "utf8")): string | null {
  for (const line of mountinfo.split("\n")) {
    const [left = "", right = ""] = line.split(" - ");
    // Octal escapes stand for blanks in a path; no distribution mounts cgroup2 at such a place.
    if (right.startsWith("cgroup2 ")) return left.split(" ")[4] ?? null;
  }
  return null;
}

/** Directories of one pass outside of users' places: more than a node has, so that a pass always ends. */
const OUTSIDE_BUDGET = 100_000;
/** Directories of one pass below one place, its own among them. */
const PLACE_BUDGET = 4_096;

/** Where logind keeps a user's sessions, and systemd the user's own manager (systemd.special(7), user@.service(5)). */
const USER_SLICE = /^\/user\.slice\/user-\d+\.slice$/;
/** A Slurm job; see `slurmJobOf`. */
const JOB = /^\/system\.slice\/(?:[^/]+_)?slurmstepd\.scope\/job_[^/]+$/;
/** S_IWGRP | S_IWOTH */
const WRITABLE_BY_OTHERS = 0o022n;

/**
 * The tree below `mount`, in two parts (see {@link CgroupTree}). A place, which a user can fill, is the topmost directory
 * of these kinds:
 *
 * - `/user.slice/user-UID.slice`: each login adds a scope, and `user@UID.service` is delegated to the user.
 * - `/system.slice/…slurmstepd.scope/job_N`: each srun adds a step, and a step may be delegated.
 * - One that belongs to another user than the mount does, or that its group or everybody may write: so systemd delegates
 *   (`Delegate=` with `User=`, systemd.resource-control(5)). Who may not write a directory can make none in it.
 *
 * All else is root's to make. No user can make a place: each stands in a directory that is root's.
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
    below: (place) => breadthFirst(mount, place, PLACE_BUDGET, () => false),
  };
}

/** No more than `budget` directories from `top` down. Holds nothing open between two of them. */
async function* breadthFirst(
  mount: string,
  top: string,
  budget: number,
  isPlace: (path: string, status: BigIntStats) => boolean,
): AsyncGenerator<Cgroup, void, undefined> {
  const paths = [top];
  for (const path of paths) {
    const status = await statOf(`${mount}${path}`);
    if (status === null) continue;
    // The root is nobody's place, whatever its mode is.
    const place = path !== "" && isPlace(path, status);
    yield { id: status.ino, path: path === "" ? "/" : path, place };
    if (place || paths.length >= budget || !isWorthReading(status, budget)) continue;
    for (const name of await directoriesIn(`${mount}${path}`)) {
      if (paths.length >= budget) break;
      paths.push(`${path}/${name}`);
    }
  }
}

/**
 * By the number of links, which is 2 and one for each directory inside (kernfs_refresh_inode in fs/kernfs/inode.c). Below
 * 2 it says nothing, on other file systems. A list is read as a whole: one that is longer than the budget would hold up
 * everybody, and is not read at all.
 */
function isWorthReading(status: BigIntStats, budget: number): boolean {
  return status.nlink < 2n || (status.nlink > 2n && status.nlink - 2n <= BigInt(budget));
}

/** Null where it ended while we walked. */
const statOf = (path: string): Promise<BigIntStats | null> => stat(path, { bigint: true }).catch(() => null);

async function directoriesIn(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}
