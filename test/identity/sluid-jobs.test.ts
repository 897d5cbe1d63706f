import { expect, test } from "bun:test";
import { SluidJobs } from "../../src/identity/sluid-jobs.ts";
import { type SlurmCgroup, slurmCgroupOf } from "../../src/identity/slurm-cgroup.ts";
import type { StepsJob } from "../../src/identity/step-daemon.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

const JOB = "/system.slice/slurmstepd.scope/s62DM8BYG18900";
const at = (path: string): SlurmCgroup => {
  const place = slurmCgroupOf(path);
  if (place === null) throw new Error(path);
  return place;
};

/** Jobs whose look-ups a test answers. */
function someJobs() {
  const clock = new FakeClock();
  const looks: {
    path: string;
    step: string;
    answer: (said: StepsJob) => void;
    fail: (why: Error) => void;
  }[] = [];
  const jobs = new SluidJobs((path, step) => {
    const { promise, resolve, reject } = Promise.withResolvers<StepsJob>();
    looks.push({ path, step, answer: resolve, fail: reject });
    return promise;
  }, clock);
  return { jobs, looks, clock };
}

test("a job is looked up once, by the step of who asks first, and then known at once", async () => {
  const { jobs, looks } = someJobs();
  const first = jobs.resolve(at(`${JOB}/step_batch/user/task_0`), 2001);
  const second = jobs.resolve(at(`${JOB}/step_batch/user/task_1`), 2001);
  await settle();
  expect(looks).toMatchObject([{ path: `${JOB}/step_batch`, step: "batch" }]);
  looks[0]?.answer({ slurmJobId: "7" });
  expect(await Promise.all([first, second])).toEqual([{ slurmJobId: "7" }, { slurmJobId: "7" }]);
  expect(jobs.resolve(at(`${JOB}/step_3`), 2002)).toEqual({ slurmJobId: "7" });
  expect(looks).toHaveLength(1);
});

test("what could not be told, or failed, is looked up again after a second, and other steps at once", async () => {
  const { jobs, looks, clock } = someJobs();
  const step = at(`${JOB}/step_0/user`);
  const first = jobs.resolve(step, 2001);
  await settle();
  looks[0]?.answer({ why: "no slurmstepd" });
  const refusal = {
    slurmJobId: null,
    jobUnknown: expect.stringContaining(`${JOB}, and the number of this job cannot be told: no slurmstepd`),
  };
  expect(await first).toEqual(refusal);
  await clock.advance(999);
  expect(jobs.resolve(step, 2001)).toEqual(refusal);
  const other = jobs.resolve(at(`${JOB}/step_1`), 2001);
  await settle();
  looks[1]?.fail(new Error("no process is left"));
  expect(await other).toMatchObject({ jobUnknown: expect.stringContaining("no process is left") });
  await clock.advance(1);
  const again = jobs.resolve(step, 2001);
  await settle();
  looks[2]?.answer({ slurmJobId: "7" });
  expect(await again).toEqual({ slurmJobId: "7" });
});

test("what is neither a number nor a SLUID, or is no step, is never looked up", () => {
  const { jobs, looks } = someJobs();
  for (const path of [
    JOB,
    "/system.slice/slurmstepd.scope/system/step_0",
    "/system.slice/slurmstepd.scope/s0000000000000/step_0",
  ])
    expect(jobs.resolve(at(path), 2001)).toMatchObject({ slurmJobId: null, jobUnknown: expect.any(String) });
  expect(looks).toEqual([]);
});

test("a user whose steps are not told in time keeps no other user waiting", async () => {
  const { jobs, looks } = someJobs();
  for (let step = 0; step < 100; step++) void jobs.resolve(at(`${JOB}/step_${step}`), 2001);
  await settle();
  expect(looks).toHaveLength(2);
  const bobs = jobs.resolve(at("/system.slice/slurmstepd.scope/s62DM8BYG18901/step_0"), 2002);
  await settle();
  expect(looks).toHaveLength(3);
  looks[2]?.answer({ slurmJobId: "8" });
  expect(await bobs).toEqual({ slurmJobId: "8" });
});
