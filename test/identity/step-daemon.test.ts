import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { jobOfStep, jobOfTitle, parseStatus } from "../../src/identity/step-daemon.ts";

describe("jobOfTitle()", () => {
  const cases: [title: string, step: string, job: string | null][] = [
    ["slurmstepd: [1.0]\0\0\0\0", "0", "1"],
    ["slurmstepd: [67108863.batch]\0", "batch", "67108863"],
    ["slurmstepd: [7.extern]", "extern", "7"],
    ["slurmstepd: [7.0]\0", "1", null],
    ["slurmstepd: [0.0]\0", "0", null],
    ["slurmstepd: [7", "0", null],
    ["slurmstepd: [7.batch", "batch", null],
    ["slurmstepd: [7.0]\0slurmstepd: [8.0]\0", "0", null],
    ["/usr/sbin/slurmstepd\0", "0", null],
    ["sleep\0slurmstepd: [7.0]\0", "0", null],
    ["slurmstepd: [7e3.0]\0", "0", null],
    ["slurmstepd: [99999999999.0]\0", "0", null],
    ["", "0", null],
  ];
  for (const [title, step, job] of cases)
    test(`${JSON.stringify(title)}, step ${step}: ${job}`, () => expect(jobOfTitle(title, step)).toBe(job));
});

test("parseStatus() reads what the kernel writes, and nothing of what a process calls itself", () => {
  expect(parseStatus("Name:\tslurmstepd\nPPid:\t1\nUid:\t0\t2001\t0\t2001\n")).toEqual({
    realUid: 0,
    savedUid: 0,
    parent: 1,
  });
  // The kernel escapes a newline in a name.
  expect(parseStatus("Name:\tx\\nUid:\t0\t0\t0\t0\nPPid:\t9\nUid:\t2001\t2001\t2001\t2001\n")?.realUid).toBe(
    2001,
  );
  for (const text of [null, "", "Name:\tx\n", "Uid:\t0\t0\t0\t0\n"]) expect(parseStatus(text)).toBeNull();
});

describe("jobOfStep()", () => {
  const STEP = "/system.slice/slurmstepd.scope/s62DM8BYG18900/step_0";
  const DAEMON = { uids: "0\t0\t0\t0", parent: 1, cgroup: `${STEP}/slurm` };
  let root = "";
  let read: string[] = [];
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), "imdsproxy-step-"));
    mkdirSync(join(root, "cgroup", STEP, "slurm"), { recursive: true });
    read = [];
    process(1, DAEMON);
  });
  afterEach(() => rmSync(root, { recursive: true }));

  function process(pid: number, { uids, parent, cgroup }: typeof DAEMON): void {
    mkdirSync(join(root, "proc", String(pid)), { recursive: true });
    writeFileSync(
      join(root, "proc", String(pid), "status"),
      `Name:\tslurmstepd\nPPid:\t${parent}\nUid:\t${uids}\n`,
    );
    writeFileSync(join(root, "proc", String(pid), "cgroup"), `8:pids:/\n0::${cgroup}\n`);
  }
  const there = (...pids: number[]) =>
    writeFileSync(join(root, "cgroup", STEP, "slurm/cgroup.procs"), pids.map((pid) => `${pid}\n`).join(""));
  const ask = (title: string | null = "slurmstepd: [7.0]\0", meanwhile = () => {}) =>
    jobOfStep(join(root, "cgroup"), STEP, "0", {
      proc: join(root, "proc"),
      readTitle: async (path) => {
        read.push(path.slice(root.length));
        meanwhile();
        return title;
      },
    });
  const whyNot = async (...args: Parameters<typeof ask>) => {
    const said = await ask(...args);
    return "why" in said ? said.why : said.slurmJobId;
  };

  test("the job that its slurmstepd names, also while that has the user's effective uid", async () => {
    there(40);
    for (const uids of ["0\t0\t0\t0", "0\t2001\t0\t2001"]) {
      process(40, { ...DAEMON, uids });
      expect(await ask()).toEqual({ slurmJobId: "7" });
    }
  });
  test("not what a child of slurmstepd's says, which is to become a task: its memory is not read", async () => {
    process(40, DAEMON);
    process(41, { ...DAEMON, parent: 40 });
    there(41, 40);
    expect(await ask()).toEqual({ slurmJobId: "7" });
    expect(read).toEqual(["/proc/40/cmdline"]);
  });
  test("not what a process of the user's says, whatever its number was before", async () => {
    there(40);
    for (const facts of [
      { uids: "2001\t2001\t2001\t2001" },
      // A set-user-ID program of the user's choice of arguments, and one that became root entirely: in the user's own cgroup.
      { uids: "2001\t0\t0\t0" },
      { cgroup: `${STEP}/user/task_0` },
      { cgroup: "/user.slice/user-2001.slice" },
      { cgroup: `/user.slice/x${STEP}/slurm` },
    ]) {
      process(40, { ...DAEMON, ...facts });
      expect(await whyNot()).toContain("no process of root's is where its step's slurmstepd would be");
    }
    expect(read).toEqual([]);
  });
  test("not a title that was read of a process which is slurmstepd no more", async () => {
    there(40);
    process(40, DAEMON);
    expect(
      await whyNot("slurmstepd: [9.0]\0", () => process(40, { ...DAEMON, cgroup: `${STEP}/user/task_0` })),
    ).toContain("has just ended");
    process(40, DAEMON);
    expect(
      await whyNot("slurmstepd: [9.0]\0", () => rmSync(join(root, "proc/40"), { recursive: true })),
    ).toContain("has just ended");
  });
  test("not where there are two, none, or too many to look at", async () => {
    expect(await whyNot()).toBe("no slurmstepd of its step runs any more");
    there();
    expect(await whyNot()).toBe("no slurmstepd of its step runs any more");
    process(40, DAEMON);
    process(41, DAEMON);
    there(40, 41);
    expect(await whyNot()).toContain("more than one");
    there(...Array.from({ length: 65 }, (_, at) => 100 + at));
    expect(await whyNot()).toContain("65 processes");
  });
  test("not where the title is not told in time, or names no job or another step's", async () => {
    there(40);
    process(40, DAEMON);
    expect(await whyNot(null)).toContain("not told in time");
    for (const title of ["", "/usr/sbin/slurmstepd\0", "slurmstepd: [7.1]\0"])
      expect(await whyNot(title)).toContain("does not name a job");
  });
  test("says so where the processes are hidden", async () => {
    there(40);
    rmSync(join(root, "proc/1"), { recursive: true });
    expect(await whyNot()).toContain("hides root's processes");
  });
});
