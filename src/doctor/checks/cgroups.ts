import { type Check, look } from "../types.ts";

export const cgroups: Check = {
  id: "cgroups",
  title: "rules by cgroup or Slurm job on a node that cannot tell them",
  level: "warning",
  why: "such a rule matches nobody, or the proxy does not start",
  remedy:
    "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1) and Slurm 22.05 or newer, or take the rule out",
  command: "stat -fc %T /sys/fs/cgroup; scontrol show config | grep -i -e proctrack -e cgroup",
  explain: [
    "Where the configuration has `cgroup`, `slurmJob` or {slurmJobId}: looks whether cgroup v2 is mounted, and whether slurm.conf and cgroup.conf put jobs into it.",
  ],
  run: ({ kernel }) =>
    look(kernel, ({ cgroups, needsCgroups, slurm }) => [
      ...(needsCgroups !== null && (cgroups === "v1" || cgroups === "none")
        ? [
            {
              what: `${needsCgroups}, and this node has ${cgroups === "none" ? "no cgroups" : "cgroup v1 alone"}`,
            },
          ]
        : []),
      ...(slurm === null ? [] : [{ what: slurm }]),
    ]),
};
