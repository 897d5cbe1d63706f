import { afterAll, beforeAll, expect, test } from "bun:test";
import { cgroupMount } from "../../src/identity/cgroup-tree.ts";
import { SHOW_PROGRAMS } from "../attack/support/attack.ts";
import { mustExec } from "../support/node.ts";
import { eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";

/**
 * Rules for Slurm jobs, by the kernel's own cgroups: processes in cgroups as slurmstepd makes them, and a user who fills
 * the tree beside them. The cgroups are made in the machine's tree, under names of this test's own, and removed again.
 */

const ROOT: Who = { user: "root" };
const DEFAULT = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";
const JOB_ROLE = "arn:aws:iam::842413447717:role/Job";
/** Far from the numbers of real jobs, and another for each run. */
const FIRST_JOB = 900_000_000 + (process.pid % 1_000) * 1_000;
/** A uid of nobody's on this machine. */
const CROWDED_UID = 3_900_000_000 + (process.pid % 1_000);
/** More than the walk looks at in one user's place. */
const CROWD = 5_000;

/**
 * A stand-in for slurmstepd: a process that goes into a cgroup, becomes an account where a uid is given, and has one argument, its title.
 * It reads from a pipe of its own, and so stays until it is killed.
 */
const TITLED = `import os, sys
procs, title, uid = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(procs, "w") as f: f.write(str(os.getpid()))
reads, writes = os.pipe()
os.dup2(reads, 0)
os.set_inheritable(writes, True)
if uid: os.setresuid(uid, uid, uid)
os.execv("/bin/cat", [title])`;

/** What `whoami` says. */
interface Said {
  readonly user?: string;
  readonly roleName?: string;
  readonly sessionName?: string;
  readonly refused?: number | string;
  readonly role?: string | null;
  readonly rule?: string;
  readonly reason?: string;
}

describeAsRoot("rules for Slurm jobs", () => {
  let node: SimulatedNode;
  let mount = "";
  let output = () => "";
  const made: string[] = [];
  const shell = (script: string, timeoutMs = 120_000) =>
    mustExec(node, ROOT, ["sh", "-euc", script], { timeoutMs });

  /** Makes a cgroup and what is above it, and remembers what was not there before. */
  async function make(path: string): Promise<void> {
    const parts = path.split("/").filter((part) => part !== "");
    const script = parts
      .map((_, at) => `${mount}/${parts.slice(0, at + 1).join("/")}`)
      .map((directory) => `if mkdir ${directory} 2>/dev/null; then echo ${directory}; fi`)
      .join("\n");
    made.push(...(await shell(script)).split("\n").filter((line) => line !== ""));
  }

  /** What the proxy takes a process of alice's for that was started in a cgroup. Asks again where a busy machine gave no answer in time. */
  async function whoamiIn(path: string): Promise<Said> {
    for (let tries = 1; ; tries++) {
      const said = await askedIn(path);
      if (said.refused !== "timed out" || tries === 10) return said;
    }
  }
  async function askedIn(path: string): Promise<Said> {
    const become = "setpriv --reuid=2001 --regid=2001 --clear-groups --";
    const script = `echo $$ >${mount}${path}/cgroup.procs; exec ${become} /usr/bin/python3 /run/attack/whoami.py`;
    return JSON.parse(await shell(script)) as Said;
  }
  const taskOf = (job: number) => `/system.slice/slurmstepd.scope/job_${job}/step_0/user/task_0`;

  beforeAll(async () => {
    const job = {
      name: "jobs",
      match: { slurmJob: true },
      role: JOB_ROLE,
      sessionName: "{user}-{slurmJobId}",
    };
    const proxied = await startProxiedNode({ show: SHOW_PROGRAMS }, { role: DEFAULT, rules: [job] });
    node = proxied.node;
    output = () => proxied.proxy.output();
    mount = cgroupMount(await mustExec(node, ROOT, ["cat", "/proc/self/mountinfo"])) ?? "";
    expect(mount).not.toBe("");
  });
  afterAll(async () => {
    // The deepest first.
    for (const directory of made.sort((a, b) => b.length - a.length))
      await node?.exec({ ...ROOT, argv: ["rmdir", directory] });
    await node?.stop();
  });

  test("give a process in a job the job's role, in a session that names the job", async () => {
    await make(taskOf(FIRST_JOB));
    expect(await whoamiIn(taskOf(FIRST_JOB))).toMatchObject({
      user: "alice",
      roleName: "Job",
      sessionName: `alice-${FIRST_JOB}`,
    });
  });

  /** The path of a job's cgroup as Slurm 26.05 names it; another one for each number, on this machine and in this run. */
  const sluidOf = (number: number) => `/system.slice/slurmstepd.scope/s62${String(number).padStart(11, "0")}`;

  /** Starts a process with this title in a cgroup, and waits until it has it. */
  async function titled(cgroup: string, title: string, uid = 0): Promise<{ end(): Promise<void> }> {
    await make(cgroup);
    const procs = `${mount}${cgroup}/cgroup.procs`;
    const argv = ["/usr/bin/python3", "-c", TITLED, procs, title, String(uid)];
    const running = node.spawn({ ...ROOT, argv, timeoutMs: 300_000 });
    await eventually(`a process is called ${title}`, async () => {
      const script = `for pid in $(cat ${procs}); do tr -d '\\0' </proc/$pid/cmdline; done`;
      const { stdout } = await node.exec({ ...ROOT, argv: ["sh", "-c", script] });
      return stdout === title;
    });
    return {
      async end() {
        running.kill("SIGKILL");
        await running.done;
        await eventually(`${cgroup} is empty`, async () => (await shell(`cat ${procs}`)).trim() === "");
      },
    };
  }

  test("know a job of Slurm 26.05 by its step's slurmstepd, and then without it", async () => {
    const job = sluidOf(FIRST_JOB);
    const daemon = await titled(`${job}/step_0/slurm`, `slurmstepd: [${FIRST_JOB + 1}.0]`);
    await make(`${job}/step_0/user/task_0`);
    const asJob = { user: "alice", roleName: "Job", sessionName: `alice-${FIRST_JOB + 1}` };
    expect(await whoamiIn(`${job}/step_0/user/task_0`)).toMatchObject(asJob);
    await daemon.end();
    await make(`${job}/step_1/user/task_0`);
    expect(await whoamiIn(`${job}/step_1/user/task_0`)).toMatchObject(asJob);
  });

  test("refuse who is in a job of Slurm 26.05 that no slurmstepd of root's names, whatever users call theirs", async () => {
    const job = sluidOf(FIRST_JOB + 1);
    const own = `slurmstepd: [${FIRST_JOB + 1}.0]`;
    const refused = async (why: string) => {
      await make(`${job}/step_0/user/task_0`);
      let said: Said = {};
      // That it could not be told is kept for a second.
      await eventually(`the job is refused: ${why}`, async () => {
        said = await whoamiIn(`${job}/step_0/user/task_0`);
        expect(said).toMatchObject({ user: "alice", role: null, rule: "jobs" });
        return said.reason?.includes(why) === true;
      });
    };
    await refused("no slurmstepd of its step runs any more");
    // Root has moved a process of the user's there, which Slurm does not.
    const users = await titled(`${job}/step_0/slurm`, own, 2001);
    await refused("no process of root's is where its step's slurmstepd would be");
    await users.end();
    // Of root's, and called so, but where the user's processes are: a program of the user's with root's rights.
    const task = await titled(`${job}/step_0/user/task_1`, own);
    await refused("no slurmstepd of its step runs any more");
    await task.end();
    const another = await titled(`${job}/step_0/slurm`, `slurmstepd: [${FIRST_JOB + 1}.1]`);
    await refused("does not name a job in its title");
    await another.end();
  });

  test("forget the session of a job when the job's cgroup is gone", async () => {
    const job = FIRST_JOB + 900;
    await make(taskOf(job));
    const script = `echo $$ >${mount}${taskOf(job)}/cgroup.procs
exec setpriv --reuid=2001 --regid=2001 --clear-groups -- curl -fsS http://169.254.169.254/latest/meta-data/iam/security-credentials/Job`;
    let answer = { AccessKeyId: "" };
    await eventually("a job has credentials", async () => {
      const { stdout } = await node.exec({ ...ROOT, argv: ["sh", "-euc", script] });
      answer = stdout.startsWith("{") ? JSON.parse(stdout) : answer;
      return answer.AccessKeyId !== "";
    });
    await shell(
      `cd ${mount}/system.slice/slurmstepd.scope && find job_${job} -depth -type d -exec rmdir {} +`,
    );
    await eventually("the log says that the session was forgotten", () =>
      output()
        .split("\n")
        .some((line) => line.includes("job-ended") && line.includes(answer.AccessKeyId)),
    );
  });

  test("give nothing to sockets that a job has left to a process outside of it, once the job has ended", async () => {
    const job = FIRST_JOB + 901;
    await make(taskOf(job));
    const go = "/tmp/job-has-ended";
    const argv = [
      "/usr/bin/python3",
      "/run/attack/afterlife.py",
      `${mount}${taskOf(job)}/cgroup.procs`,
      "2001",
      go,
    ];
    const left = node.spawn({ ...ROOT, argv, timeoutMs: 120_000 });
    await eventually("the socket speaks for the job", () => left.stdout().includes(`alice-${job}`));
    await shell(
      `cd ${mount}/system.slice/slurmstepd.scope && find job_${job} -depth -type d -exec rmdir {} +; : >${go}`,
    );
    const { stdout, stderr } = await left.done;
    expect(stderr).toBe("");
    expect(stdout.trim().split("\n").at(-1)).toBe("no role");
  });

  test("give a process outside of jobs what everybody has", async () => {
    await make(`/system.slice/not-slurmstepd-${FIRST_JOB}.scope/job_7/step_0`);
    const said = await whoamiIn(`/system.slice/not-slurmstepd-${FIRST_JOB}.scope/job_7/step_0`);
    expect(said).toMatchObject({ user: "alice", roleName: "ImdsProxyTestRole" });
  });

  test("refuse a user's process in slurmd's own service: a Slurm that makes no cgroup v2 has left a job there", async () => {
    const service = `/system.slice/slurmd-${FIRST_JOB}.service`;
    await make(service);
    expect(await whoamiIn(service)).toMatchObject({
      user: "alice",
      role: null,
      rule: "jobs",
      reason: expect.stringContaining("asks for the Slurm job, which cannot be told"),
    });
  });

  test("know a new job at once although a user has filled the tree beside it", async () => {
    const place = `/user.slice/user-${CROWDED_UID}.slice`;
    await make(place);
    try {
      await shell(`cd ${mount}${place}; seq -f 'c%.0f' ${CROWD} | xargs mkdir`);
      // One that is gone when it is looked for: each such question is a walk through everything.
      const gone = whoamiIn(place);
      for (let job = FIRST_JOB + 1; job <= FIRST_JOB + 5; job++) {
        await make(taskOf(job));
        expect(await whoamiIn(taskOf(job))).toMatchObject({ roleName: "Job", sessionName: `alice-${job}` });
      }
      expect(await gone).toMatchObject({ user: "alice", roleName: "ImdsProxyTestRole" });
    } finally {
      await shell(`cd ${mount}${place}; seq -f 'c%.0f' ${CROWD} | xargs rmdir`);
    }
  }, 300_000);
});
