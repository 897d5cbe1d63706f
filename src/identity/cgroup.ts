/**
 * A cgroup's id -> its path -> the Slurm job. The id comes with the socket; it is the inode number of the cgroup's
 * directory (kernfs_id in linux/kernfs.h, on 64-bit systems) and is never given twice.
 */

/** The tree of cgroup v2; src/identity/cgroup-tree.ts is the real one. */
export interface CgroupTree {
  /** Every cgroup that there is now: id -> path below the mount, beginning with a slash. */
  scan(): Promise<ReadonlyMap<bigint, string>>;
}

const MAX_ENTRIES = 20_000;

/** Paths by id, from memory or by a walk of the tree; one walk for all who wait. */
export class Cgroups {
  readonly #tree: CgroupTree;
  #known = new Map<bigint, string>();
  #running: Promise<void> | null = null;
  #next: Promise<void> | null = null;

  constructor(tree: CgroupTree) {
    this.#tree = tree;
  }

  /** The path, or null where there is no such cgroup any more. */
  resolve(id: bigint): string | Promise<string | null> {
    return this.#known.get(id) ?? this.#scanFor(id);
  }

  async #scanFor(id: bigint): Promise<string | null> {
    // A walk that began before this request may have passed the place where the cgroup is by now.
    this.#next ??= (this.#running ?? Promise.resolve()).then(() => {
      this.#next = null;
      this.#running = this.#scan().finally(() => {
        this.#running = null;
      });
      return this.#running;
    });
    await this.#next;
    return this.#known.get(id) ?? null;
  }

  async #scan(): Promise<void> {
    const found = new Map(await this.#tree.scan());
    // Ids of ended cgroups stay for callers whose socket outlives its cgroup, as long as there is room.
    for (const [id, path] of this.#known) {
      if (found.size >= MAX_ENTRIES) break;
      if (!found.has(id)) found.set(id, path);
    }
    this.#known = found;
  }
}

/**
 * `/system.slice/slurmstepd.scope/job_12/step_0/user/task_0` (Slurm, cgroup/v2 plugin), with the node's name in front of
 * `slurmstepd.scope` where several slurmd share a machine. Only there: below user.slice users make cgroups of any name.
 */
const SLURM_JOB = /^\/system\.slice\/(?:[^/]+_)?slurmstepd\.scope\/job_(\d+)(?:\/|$)/;

/** The Slurm job of a cgroup's path, or null. */
export const slurmJobOf = (path: string | null): string | null =>
  path === null ? null : (SLURM_JOB.exec(path)?.[1] ?? null);
