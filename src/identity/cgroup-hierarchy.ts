import { existsSync } from "node:fs";

/** Which versions of cgroups a node has mounted: `v2`, `hybrid` (v1 with v2 beside it), `v1`, or `none`. */
export type CgroupHierarchy = "v2" | "hybrid" | "v1" | "none";

/** This node's, by where systemd mounts them (systemd's docs/CGROUP_DELEGATION.md, "Three Different Tree Setups"). */
export function cgroupHierarchy(): CgroupHierarchy {
  if (existsSync("/sys/fs/cgroup/cgroup.controllers")) return "v2";
  if (existsSync("/sys/fs/cgroup/unified/cgroup.procs")) return "hybrid";
  return existsSync("/sys/fs/cgroup/systemd") ? "v1" : "none";
}
