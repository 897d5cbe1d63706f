import { describe, expect, test } from "bun:test";
import { Cgroups, slurmJobOf } from "../../src/identity/cgroup.ts";
import { cgroupMount } from "../../src/identity/cgroup-tree.ts";
import { settle } from "../support/fake-clock.ts";

describe("slurmJobOf()", () => {
  const jobs: [path: string | null, job: string | null][] = [
    [null, null],
    ["/", null],
    ["/system.slice/slurmstepd.scope/job_12", "12"],
    ["/system.slice/slurmstepd.scope/job_12/step_0/user/task_0", "12"],
    ["/system.slice/slurmstepd.scope/job_12/step_batch/user/task_special", "12"],
    ["/system.slice/node1_slurmstepd.scope/job_7/step_extern", "7"],
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
    test(`${JSON.stringify(path)}: ${job}`, () => expect(slurmJobOf(path)).toBe(job));
  }
});

describe("cgroupMount()", () => {
  const v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
  const hybrid = "30 24 0:27 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw";
  const v1 = "31 24 0:28 / /sys/fs/cgroup/cpu rw shared:6 - cgroup cgroup rw,cpu";
  test("finds where cgroup v2 is mounted", () => {
    expect(cgroupMount(`x\n${v2}\n`)).toBe("/sys/fs/cgroup");
    expect(cgroupMount(`${v1}\n${hybrid}\n`)).toBe("/sys/fs/cgroup/unified");
  });
  test("finds none where there is none", () => {
    expect(cgroupMount(`${v1}\n`)).toBeNull();
    expect(cgroupMount("")).toBeNull();
  });
});

describe("Cgroups.resolve()", () => {
  function aTree() {
    const tree = new Map<bigint, string>([[1n, "/"]]);
    const walks: (() => void)[] = [];
    const cgroups = new Cgroups({
      scan: () => {
        // What is there when the walk begins is what it finds.
        const found = new Map(tree);
        return new Promise((resolve) => walks.push(() => resolve(found)));
      },
    });
    const walk = async (): Promise<void> => {
      await settle();
      walks.shift()?.();
      await settle();
    };
    return { tree, walks, cgroups, walk };
  }

  test("walks the tree once for all who wait, and answers at once after that", async () => {
    const { tree, walks, cgroups, walk } = aTree();
    tree.set(7n, "/a");
    const crowd = Array.from({ length: 50 }, () => cgroups.resolve(7n));
    await settle();
    expect(walks).toHaveLength(1);
    await walk();
    expect(await Promise.all(crowd)).toEqual(Array(50).fill("/a"));
    expect(cgroups.resolve(7n)).toBe("/a");
  });

  test("does not believe a walk that began before the question", async () => {
    const { tree, walks, cgroups, walk } = aTree();
    const first = cgroups.resolve(7n);
    await settle();
    tree.set(8n, "/b");
    const second = cgroups.resolve(8n);
    const third = cgroups.resolve(8n);
    await walk();
    expect(await first).toBeNull();
    await settle();
    expect(walks).toHaveLength(1);
    await walk();
    expect([await second, await third]).toEqual(["/b", "/b"]);
  });

  test("knows a cgroup that has ended, for a socket that outlives it", async () => {
    const { tree, cgroups, walk } = aTree();
    tree.set(7n, "/a");
    const first = cgroups.resolve(7n);
    await walk();
    await first;
    tree.delete(7n);
    const other = cgroups.resolve(9n);
    await walk();
    expect(await other).toBeNull();
    expect(cgroups.resolve(7n)).toBe("/a");
  });

  test("knows null of one that never was", async () => {
    const { cgroups, walk } = aTree();
    const never = cgroups.resolve(99n);
    await walk();
    expect(await never).toBeNull();
  });
});
