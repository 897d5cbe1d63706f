import { readFileSync } from "node:fs";
import { opendir, stat } from "node:fs/promises";
import type { CgroupTree } from "./cgroup.ts";

/** Where cgroup v2 is mounted (proc(5), mountinfo), or null where it is not. */
export function cgroupMount(mountinfo: string = readFileSync("/proc/self/mountinfo", "utf8")): string | null {
  for (const line of mountinfo.split("\n")) {
    const [left = "", right = ""] = line.split(" - ");
    // Octal escapes stand for blanks in a path; no distribution mounts cgroup2 at such a place.
    if (right.startsWith("cgroup2 ")) return left.split(" ")[4] ?? null;
  }
  return null;
}

/** More directories than a node has, so that a walk always ends. */
const MAX_DIRECTORIES = 100_000;

/** The tree below `mount`. */
export function cgroupTree(mount: string): CgroupTree {
  return {
    async scan() {
      const found = new Map<bigint, string>();
      const waiting = [""];
      for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
        try {
          found.set((await stat(`${mount}${path}`, { bigint: true })).ino, path === "" ? "/" : path);
          for await (const entry of await opendir(`${mount}${path}`)) {
            if (entry.isDirectory() && found.size + waiting.length < MAX_DIRECTORIES)
              waiting.push(`${path}/${entry.name}`);
          }
        } catch {
          // It ended while we walked.
        }
      }
      return found;
    },
  };
}
