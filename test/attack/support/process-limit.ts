import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { eventually } from "../../support/proxied.ts";

/** Removes a cgroup, which is busy until its last process is gone (cgroups(7)). */
export const removeCgroup = (path: string): Promise<void> =>
  eventually("the cgroup is empty and can be removed", () => {
    try {
      rmdirSync(path);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EBUSY") throw error;
      return false;
    }
  });

/** A cgroup of this machine for a test's own processes, whose number can be limited; null where there is none. */
export function processLimit(): {
  readonly path: string;
  set(most: number | "max"): void;
  remove(): Promise<void>;
} | null {
  const v1 = "/sys/fs/cgroup/pids";
  const v2 = "/sys/fs/cgroup";
  const controllers = (file: string) => (existsSync(file) ? readFileSync(file, "utf8").split(/\s+/) : []);
  const parent = existsSync(`${v1}/cgroup.procs`)
    ? v1
    : controllers(`${v2}/cgroup.subtree_control`).includes("pids")
      ? v2
      : null;
  if (parent === null) return null;
  const path = `${parent}/imdsproxy-watch-test-${process.pid}`;
  try {
    mkdirSync(path);
  } catch {
    return null;
  }
  return {
    path,
    set: (most) => writeFileSync(`${path}/pids.max`, String(most)),
    remove: () => removeCgroup(path),
  };
}
