import { describe, expect, test } from "bun:test";
import type { CgroupHierarchy } from "../../src/identity/cgroup-hierarchy.ts";
import { slurmProblem as problemOf, slurmValue } from "../../src/identity/slurm-settings.ts";

const files = (texts: Record<string, string>) => (path: string) => texts[path] ?? null;

describe("slurmValue()", () => {
  const cases: [text: string, value: string | null][] = [
    ["ProctrackType=proctrack/cgroup", "proctrack/cgroup"],
    ["  proctracktype = proctrack/linuxproc # why", "proctrack/linuxproc"],
    ["#ProctrackType=proctrack/linuxproc", null],
    ["XProctrackType=proctrack/linuxproc", null],
    ["ProctrackType=a\nProctrackType=b", "b"],
    ["", null],
  ];
  for (const [text, value] of cases) {
    test(JSON.stringify(text), () => expect(slurmValue(text, "ProctrackType")).toBe(value));
  }
});

/** On a node with cgroup v2, and not as this machine has its own. */
const slurmProblem = (
  environment: Record<string, string>,
  read: (path: string) => string | null,
  version: () => string | null = () => null,
  hierarchy: CgroupHierarchy = "v2",
) => problemOf(environment, read, version, () => hierarchy);

describe("slurmProblem()", () => {
  test("none without a slurm.conf", () => expect(slurmProblem({}, files({}))).toBeNull());
  test("none with the defaults", () =>
    expect(slurmProblem({}, files({ "/etc/slurm/slurm.conf": "ClusterName=c\n" }))).toBeNull());
  test("a Slurm that tracks jobs without cgroups", () => {
    for (const path of ["/etc/slurm/slurm.conf", "/opt/slurm/etc/slurm.conf", "/run/slurm/conf/slurm.conf"]) {
      const problem = slurmProblem({}, files({ [path]: "ProctrackType=proctrack/linuxproc\n" }));
      expect(problem).toContain(path);
      expect(problem).toContain("proctrack/linuxproc");
    }
  });
  test("the file that SLURM_CONF names comes first", () => {
    const read = files({ "/x/slurm.conf": "ProctrackType=proctrack/pgid", "/etc/slurm/slurm.conf": "" });
    expect(slurmProblem({ SLURM_CONF: "/x/slurm.conf" }, read)).toContain("/x/slurm.conf");
  });
  test("cgroups of version 1", () => {
    const read = files({ "/etc/slurm/slurm.conf": "", "/etc/slurm/cgroup.conf": "CgroupPlugin=cgroup/v1" });
    expect(slurmProblem({}, read)).toContain("CgroupPlugin=cgroup/v2");
    const good = files({ "/etc/slurm/slurm.conf": "", "/etc/slurm/cgroup.conf": "CgroupPlugin=cgroup/v2" });
    expect(slurmProblem({}, good)).toBeNull();
  });
  test("a Slurm that has no cgroup/v2 yet, by what its slurmd says", () => {
    const read = files({ "/etc/slurm/slurm.conf": "ProctrackType=proctrack/cgroup\n" });
    const of = (version: string | null) => slurmProblem({}, read, () => version);
    for (const version of ["slurm-wlm 20.11.4\n", "slurm 21.08.8-2\n", "slurm 22.02.1\n"]) {
      expect(of(version)).toContain(version.trim().split(" ")[1] ?? "");
    }
    for (const version of ["slurm 22.05.8\n", "slurm-wlm 24.11.5\n", "slurm 26.05.5\n", "", null]) {
      expect(of(version)).toBeNull();
    }
  });
  test("cgroup v1, or both, on a node that has Slurm, whatever its version; without Slurm nobody is in a job", () => {
    const read = files({ "/etc/slurm/slurm.conf": "", "/etc/slurm/cgroup.conf": "CgroupPlugin=cgroup/v2" });
    for (const hierarchy of ["hybrid", "v1"] as const) {
      const problem = slurmProblem({}, read, () => "slurm 24.11.5", hierarchy);
      expect(problem).toContain("this node has Slurm (/etc/slurm/slurm.conf) and cgroups of version 1");
      expect(slurmProblem({}, files({}), () => "slurm 24.11.5", hierarchy)).toBeNull();
    }
  });
});
