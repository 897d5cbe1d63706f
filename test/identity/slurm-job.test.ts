import { describe, expect, test } from "bun:test";
import type { SlurmCgroup } from "../../src/identity/slurm-cgroup.ts";
import { jobOf } from "../../src/identity/slurm-job.ts";

const JOB = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0";
const LOGIN = "/user.slice/user-2001.slice/session-3.scope";

describe("jobOf()", () => {
  test("the job of the cgroup, whatever the node's settings say", () => {
    for (const problem of [null, "WHY"]) expect(jobOf(JOB, 2001, problem, null)).toEqual({ slurmJobId: "7" });
  });
  test("by a SLUID, what is told of it, whatever the node's settings say", async () => {
    const at = "/system.slice/slurmstepd.scope/s62DM8BYG18900/step_batch/user/task_0";
    const asked: unknown[] = [];
    const resolve = (place: SlurmCgroup, uid: number) => {
      asked.push([place.job, place.step, uid]);
      return Promise.resolve({ slurmJobId: "7" });
    };
    for (const problem of [null, "WHY"])
      expect(await jobOf(at, 2001, problem, { resolve })).toEqual({ slurmJobId: "7" });
    const job = "/system.slice/slurmstepd.scope/s62DM8BYG18900";
    expect(asked).toEqual([
      [job, "batch", 2001],
      [job, "batch", 2001],
    ]);
  });
  test("never none for what is below slurmstepd's scope: it cannot be told where nothing tells it", () => {
    for (const name of [
      "s62DM8BYG18900/step_0/user",
      "s62DM8BYG18900",
      "s0000000000000/step_0",
      "job_x",
      "new/step_0",
    ])
      expect(jobOf(`/system.slice/slurmstepd.scope/${name}`, 2001, null, null)).toEqual({
        slurmJobId: null,
        jobUnknown: expect.stringContaining("the number of this job cannot be told"),
      });
  });
  test("none for a login; where the node's Slurm makes no cgroup v2 for jobs, that cannot be told", () => {
    expect(jobOf(LOGIN, 2001, null, null)).toEqual({ slurmJobId: null });
    expect(jobOf(LOGIN, 2001, "WHY", null)).toEqual({ slurmJobId: null, jobUnknown: "WHY" });
  });
  test("nothing more where the cgroup is not known", () =>
    expect(jobOf(null, 2001, "WHY", null)).toEqual({ slurmJobId: null }));

  for (const unit of ["slurmd.service", "slurmd@node-1.service", "slurmd-24.11.service"]) {
    test(`of a user's process in ${unit} it cannot be told, though nothing is known of the node`, () => {
      for (const below of ["", "/a/b"]) {
        expect(jobOf(`/system.slice/${unit}${below}`, 2001, null, null)).toEqual({
          slurmJobId: null,
          jobUnknown: expect.stringContaining(`the caller is in ${unit} itself`),
        });
      }
    });
  }
  test("a prolog runs there as root, in no job", () =>
    expect(jobOf("/system.slice/slurmd.service", 0, null, null)).toEqual({ slurmJobId: null }));
  test("other services, and what a user calls so, are no slurmd's", () => {
    for (const path of [
      "/system.slice/slurmdbd.service",
      "/system.slice/slurmctld.service",
      "/system.slice/cron.service/slurmd.service",
      "/system.slice/slurmd.scope",
      "/user.slice/user-2001.slice/user@2001.service/app.slice/slurmd.service",
    ])
      expect(jobOf(path, 2001, null, null)).toEqual({ slurmJobId: null });
  });
});
