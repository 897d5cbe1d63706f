import { describe, expect, test } from "bun:test";
import { slurmCgroupOf, slurmJobNameOf } from "../../src/identity/slurm-cgroup.ts";

describe("slurmJobNameOf()", () => {
  const jobs: [path: string | null, job: string | null][] = [
    [null, null],
    ["/", null],
    ["/system.slice/slurmstepd.scope/job_12", "12"],
    ["/system.slice/slurmstepd.scope/job_12/step_0/user/task_0", "12"],
    ["/system.slice/slurmstepd.scope/job_12/step_batch/user/task_special", "12"],
    ["/system.slice/node1_slurmstepd.scope/job_7/step_extern", "7"],
    ["/system.slice/slurmstepd.scope/s62DM8BYG18900/step_0/user/task_0", "s62DM8BYG18900"],
    ["/system.slice/slurmstepd.scope", null],
    ["/system.slice/slurmstepd.scope/system", null],
    ["/system.slice/slurmstepd.scope/job_", null],
    ["/system.slice/slurmstepd.scope/job_x", null],
    ["/system.slice/slurmstepd.scope/job_12x", null],
    ["/system.slice/slurmstepd.scope/xjob_12", null],
    ["/system.slice/slurmd.service", null],
    // Users make cgroups of any name below their own.
    ["/user.slice/user-2001.slice/user@2001.service/slurmstepd.scope/job_5", null],
    [
      "/user.slice/user-2001.slice/user@2001.service/app.slice/system.slice/slurmstepd.scope/job_5/step_0",
      null,
    ],
    ["/user.slice/user-2001.slice/x\n/system.slice/slurmstepd.scope/job_5", null],
    ["/system.slice/x.service/slurmstepd.scope/job_5", null],
    ["system.slice/slurmstepd.scope/job_5", null],
    // A job's processes make cgroups as well, and stay in the job.
    ["/system.slice/slurmstepd.scope/job_5/step_0/user/task_0/job_6", "5"],
    ["/system.slice/slurmstepd.scope/job_5/../job_6", "5"],
  ];
  for (const [path, job] of jobs) {
    test(`${JSON.stringify(path)}: ${job}`, () => expect(slurmJobNameOf(path)).toBe(job));
  }
});

describe("slurmCgroupOf()", () => {
  const scope = "/system.slice/node_slurmstepd.scope";
  const sluid = "s62DM8BYG18900";
  test("a job by its number", () =>
    expect(slurmCgroupOf(`${scope}/job_12/step_batch/user/task_special`)).toEqual({
      job: `${scope}/job_12`,
      id: "12",
      sluid: null,
      step: "batch",
    }));
  test("a job by its SLUID, and by its step", () => {
    const job = `${scope}/${sluid}`;
    expect(slurmCgroupOf(`${job}/step_0/user/task_0`)).toEqual({ job, id: null, sluid, step: "0" });
    expect(slurmCgroupOf(`${job}/step_extern`)).toMatchObject({ sluid, step: "extern" });
    expect(slurmCgroupOf(job)).toEqual({ job, id: null, sluid, step: null });
  });
  test("neither, for what is no number and no SLUID, and for the SLUID of jobs that have none", () => {
    for (const name of [
      "system",
      "s62dm8byg18900",
      "s62DM8BYG1890",
      "s62DM8BYG189000",
      "sZ2DM8BYG18900",
      "s0000000000000",
    ])
      expect(slurmCgroupOf(`${scope}/${name}/step_0`)).toMatchObject({ id: null, sluid: null });
  });
  test("nothing elsewhere", () => {
    for (const path of [
      null,
      scope,
      `/user.slice/user-2001.slice/user@2001.service${scope}/${sluid}/step_0`,
      `/user.slice/x\n${scope}/${sluid}/step_0`,
      `/system.slice/slurmstepd.scopes/${sluid}/step_0`,
    ])
      expect(slurmCgroupOf(path)).toBeNull();
  });
});
