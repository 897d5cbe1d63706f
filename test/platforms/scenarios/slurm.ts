/**
 * A real Slurm (slurmctld, slurmd, munge, Debian's own units) with proctrack/cgroup and cgroup v2: each way to run something, and
 * the role and session name that STS was asked for. docs/slurm.md says what this holds.
 */

import { STS } from "../../boot/support/node.ts";
import { type Machine, until } from "../support/machine.ts";
import { INSTANCE_ROLE, PAYLOAD } from "../support/node.ts";
import type { Context, Scenario } from "../support/scenario.ts";

const SLURM = `ClusterName=test
SlurmctldHost=node
SlurmUser=slurm
AuthType=auth/munge
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd-%n.log
ReturnToService=2
# A title such as \`slurmstepd: [60000001.extern]\` is as long as those of a cluster that has run many jobs.
FirstJobId=60000001
MpiDefault=none
Prolog=/usr/local/bin/prolog
Epilog=/usr/local/bin/epilog
# contain: ssh is taken into the job by pam_slurm_adopt.
PrologFlags=alloc,contain

# Heterogeneous jobs are started by the backfill scheduler alone; the default is every 30 s.
SchedulerParameters=bf_interval=1
# As many as the jobs need, whatever the machine has; and as slow as an emulated machine is.
SlurmdParameters=config_overrides
MessageTimeout=90
# Two nodes of Slurm's on one machine, since the components of a heterogeneous job are never on the same one.
NodeName=node NodeHostname=node NodeAddr=127.0.1.1 Port=6818 CPUs=8 RealMemory=500 State=UNKNOWN
NodeName=other NodeHostname=node NodeAddr=127.0.1.1 Port=6828 CPUs=8 RealMemory=500 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
`;

const ACCOUNT = "arn:aws:iam::842413447717:role";
/** alice has a role inside of a job alone; bob has one outside of jobs too. */
const CONFIGURATION = `listen: 127.0.0.1:254
region: us-west-2
sts: { endpoint: "${STS}" }
role: ${ACCOUNT}/Login
sessionName: "{user}-{slurmJobId}"
rules:
  - name: jobs
    match: { slurmJob: true }
    role: ${ACCOUNT}/Job
    sessionName: "{user}-{slurmJobId}"
    tags: { job: "{slurmJobId}" }
    sourceIdentity: "{user}-{slurmJobId}"
  - name: alice outside of a job
    match: { user: [alice] }
    role: none
  - name: bob outside of a job
    match: { user: [bob] }
    role: ${ACCOUNT}/Login
    sessionName: "{user}-{slurmJobId}"
    tags: { job: "{slurmJobId}" }
`;

/** Asks for the caller's credentials; writes a line: the role, the job of the environment, the path of the cgroup. */
const ASK = `#!/bin/sh
base=http://169.254.169.254/latest/meta-data/iam/security-credentials/
role=$(curl -sf -m 60 $base)
code=$(curl -s -m 60 -o /dev/null -w '%{http_code}' $base$role)
echo "who=$(id -un) role=$role code=$code job=$SLURM_JOB_ID cgroup=$(sed -n 's/^0:://p' /proc/self/cgroup)"
`;

/** Asks from a cgroup of the caller's own that is called as a job's. */
const FORGE = `#!/bin/sh -e
own=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
forged=$own/slurmstepd.scope/job_1/step_0/user/task_0
mkdir -p $forged
echo $$ >$forged/cgroup.procs
exec /usr/local/bin/ask
`;

interface Answer {
  readonly who: string;
  /** Empty where the caller was refused. */
  readonly role: string;
  readonly code: string;
  /** SLURM_JOB_ID of its environment. */
  readonly job: string;
  readonly cgroup: string;
}

const answersIn = (text: string): Answer[] =>
  [...text.matchAll(/who=(\S*) role=(\S*) code=(\d*) job=(\d*) cgroup=(\S+)/g)].map(
    ([, who = "", role = "", code = "", job = "", cgroup = ""]) => ({ who, role, code, job, cgroup }),
  );

/** Slurm 26.05 and newer have a job's SLUID in the path; older ones have its number. */
const NAMED = /\/(?:job_(?<id>\d+)|(?<sluid>s[0-9A-Z]{13}))\//;

/** How to tell the job of a cgroup's path, as Slurm itself knows it; null: none. */
async function jobsBySlurm(machine: Machine): Promise<(path: string) => string | null> {
  const listed = await machine.run("squeue -a -h -t all -O JobID:30,SLUID:30");
  const ids = new Map(
    listed.stdout.split("\n").map((line) => {
      const [id = "", sluid = ""] = line.trim().split(/\s+/);
      return [sluid, id] as const;
    }),
  );
  return (path) => {
    const { id, sluid } = NAMED.exec(`${path}/`)?.groups ?? {};
    return id ?? (sluid === undefined ? null : (ids.get(sluid) ?? `no job of Slurm's: ${sluid}`));
  };
}

/** What STS was asked for: by the session's name, the role, the tag `job` and the source identity. */
async function sessions(machine: Machine) {
  const lines = (await machine.ok("cat /var/lib/stand-in/sts.log")).split("\n").filter((line) => line !== "");
  return new Map(
    lines.map((line) => {
      const { parameters } = JSON.parse(line) as { parameters: Record<string, string> };
      const role = parameters["RoleArn"]?.split("/").at(-1) ?? "";
      const tag = parameters["Tags.member.1.Value"] ?? null;
      return [
        parameters["RoleSessionName"] ?? "",
        { role, tag, sourceIdentity: parameters["SourceIdentity"] ?? null },
      ];
    }),
  );
}

/** slurmd's and slurmctld's last words. */
const words = (machine: Machine) =>
  machine.ok(
    "sinfo; squeue; scontrol show node; systemctl status --no-pager -n 15 munge slurmctld slurmd; tail -n 20 /var/log/slurm/*.log; true",
  );

async function idle(machine: Machine): Promise<void> {
  try {
    await until(
      "Slurm's node is idle",
      async () => (await machine.run("sinfo -h -o %t")).stdout.trim() === "idle",
      300_000,
      1000,
    );
  } catch (error) {
    throw new Error(`${error}\n${await words(machine)}`);
  }
}

/** In a container, slurmd is shown no cgroup v1 of the machine that the container is on (programs/cgroup-v2-only.c). */
async function showVersion2({ machine, cell }: Context): Promise<void> {
  if (cell.kind !== "container") return;
  for (const unit of ["slurmd", "slurmd-other"])
    await machine.write(
      `/etc/systemd/system/${unit}.service.d/cgroup.conf`,
      `[Service]\nEnvironment=LD_PRELOAD=${PAYLOAD}/cgroup-v2-only.so\n`,
    );
}

/** Installs the proxy, and starts Slurm in place of the stand-in for slurmd. */
async function begin(context: Context): Promise<void> {
  const { machine, holds } = context;
  await showVersion2(context);
  await machine.ok("systemctl disable -q --now hammer.service slurmd.service");
  await machine.ok("rm -f /etc/systemd/system/slurmd.service && systemctl daemon-reload");
  await machine.write("/etc/slurm/slurm.conf", SLURM);
  await machine.write("/etc/slurm/cgroup.conf", "CgroupPlugin=cgroup/v2\n");
  await machine.write("/usr/local/bin/ask", ASK, 0o755);
  for (const hook of ["prolog", "epilog"])
    await machine.write(
      `/usr/local/bin/${hook}`,
      `#!/bin/sh\n/usr/local/bin/ask >>/run/${hook}.log 2>&1\n`,
      0o755,
    );
  await machine.write("/root/config.yaml", CONFIGURATION);
  // Under emulation on a busy machine every start is slow, and it is not what is tried here.
  for (const unit of ["imdsproxy-iptables", "imdsproxy", "imdsproxy-handover"])
    await machine.write(
      `/etc/systemd/system/${unit}.service.d/slow.conf`,
      "[Service]\nTimeoutStartSec=600\n",
    );
  const setup = await machine.run(
    `sh ${PAYLOAD}/release/install.sh --from ${PAYLOAD}/release/ --config /root/config.yaml --verify-as bob`,
  );
  holds(
    "setup ends with 0 on a node with Slurm",
    setup.code === 0,
    setup.code === 0 ? "" : setup.stdout + setup.stderr,
  );
  holds(
    "setup has nothing to say of this Slurm",
    !/ProctrackType|CgroupPlugin/.test(setup.stdout + setup.stderr),
    setup.stderr,
  );
  await machine.ok(
    "test -s /etc/munge/munge.key || /usr/sbin/mungekey; chown munge: /etc/munge/munge.key; " +
      "mkdir -p /var/lib/slurm/slurmctld /var/lib/slurm/slurmd-node /var/lib/slurm/slurmd-other /var/log/slurm && chown -R slurm /var/lib/slurm/slurmctld /var/log/slurm && " +
      "sed -e '/^ExecStart=/s|[$]SLURMD_OPTIONS|-N other|' -e /^PIDFile=/d /lib/systemd/system/slurmd.service >/etc/systemd/system/slurmd-other.service && " +
      "systemctl daemon-reload && systemctl enable -q munge slurmctld slurmd slurmd-other && systemctl restart munge slurmctld slurmd slurmd-other",
  );
  await idle(machine);
}

/** Runs a batch script of alice's to its end; says its id and what it wrote. */
async function batch(machine: Machine, options: string, script: string, as = "alice") {
  const ran = await machine.run(`cd /home/${as} && HOME=/home/${as} sbatch -W --parsable ${options}`, {
    as,
    stdin: `#!/bin/sh\n${script}\n`,
  });
  const text = await machine.ok(`cat /home/${as}/out-*; rm -f /home/${as}/out-*`);
  return { id: ran.stdout.trim(), text: text + ran.stderr };
}

export const slurm: Scenario = {
  name: "slurm",
  async run(context) {
    const { machine, holds } = context;
    await begin(context);
    /** Each answer is of its job: the role, and a session by the job's id with its tag and its source identity. */
    const areOfJobs = async (what: string, text: string, answers: number, ids?: readonly string[]) => {
      const found = answersIn(text);
      const jobOf = await jobsBySlurm(machine);
      let asked = await sessions(machine);
      // The stand-in for STS writes down what it was asked for a moment later.
      const written = () => found.every(({ who, cgroup }) => asked.has(`${who}-${jobOf(cgroup)}`));
      for (let look = 0; look < 50 && !written(); look++) {
        await Bun.sleep(200);
        asked = await sessions(machine);
      }
      const wrong = found.filter(({ who, role, code, cgroup }) => {
        const id = jobOf(cgroup);
        const session = asked.get(`${who}-${id}`);
        return (
          role !== "Job" ||
          code !== "200" ||
          session?.role !== "Job" ||
          session.tag !== id ||
          session.sourceIdentity !== `${who}-${id}`
        );
      });
      const had = found.map(({ cgroup }) => jobOf(cgroup) ?? "").sort();
      const holding =
        wrong.length === 0 &&
        found.length === answers &&
        (ids === undefined || JSON.stringify(had) === JSON.stringify([...ids].sort()));
      holds(
        what,
        holding,
        holding
          ? [...new Set(found.map(({ cgroup }) => cgroup))].join(" ")
          : `${text}${JSON.stringify([...asked])}`,
      );
    };

    const bob = answersIn(await machine.ok("/usr/local/bin/ask", { as: "bob" }))[0];
    const none = (await sessions(machine)).get("bob-none");
    holds(
      "outside of a job bob has the rule's role, in a session by the name bob-none, without a tag",
      bob?.role === "Login" && bob.code === "200" && none?.role === "Login" && none.tag === null,
      JSON.stringify([bob, none]),
    );
    const refused = async (what: string, text: string) => {
      const [one] = answersIn(text);
      const holding =
        one !== undefined && one.role === "" && one.code === "404" && !NAMED.test(`${one.cgroup}/`);
      holds(what, holding, text);
    };
    await refused(
      "outside of a job alice is refused",
      await machine.ok("/usr/local/bin/ask", { as: "alice" }),
    );

    const script = await batch(machine, "-o out-%j", "/usr/local/bin/ask\nsrun /usr/local/bin/ask");
    await areOfJobs("sbatch: the script and its step are in the job", script.text, 2, [script.id, script.id]);

    const step = await machine.ok("cd /tmp && srun -n 2 /usr/local/bin/ask", { as: "alice" });
    await areOfJobs(
      "srun: each task is in its job",
      step,
      2,
      answersIn(step).map(({ job }) => job),
    );

    const pty = await machine.ok("cd /tmp && script -qc 'srun --pty /usr/local/bin/ask' /dev/null", {
      as: "alice",
    });
    await areOfJobs(
      "srun --pty: a shell is in its job",
      pty,
      1,
      answersIn(pty).map(({ job }) => job),
    );

    const contained = await batch(
      machine,
      "-o out-%j",
      "unshare -c --mount srun /usr/local/bin/ask; unshare -c --mount /usr/local/bin/ask",
    );
    await areOfJobs(
      "a container of alice's with the node's network (namespaces of its own for users and mounts) is in its job",
      contained.text,
      2,
      [contained.id, contained.id],
    );

    const array = await batch(machine, "-a 0-2 -o out-%A-%a", "/usr/local/bin/ask");
    const elements = answersIn(array.text).map(({ job }) => job);
    await areOfJobs("an array: each element has its own raw job id", array.text, 3, elements);
    holds("the three raw ids of an array differ", new Set(elements).size === 3, elements.join(" "));

    const salloc = await machine.run(
      "cd /tmp && salloc -n 1 sh -c '/usr/local/bin/ask >/tmp/salloc-own; srun /usr/local/bin/ask'",
      { as: "alice" },
    );
    await areOfJobs(
      "salloc: a step of it is in the job",
      salloc.stdout,
      1,
      answersIn(salloc.stdout).map(({ job }) => job),
    );
    await refused(
      "salloc: its own command is where it was called, in no job",
      await machine.ok("cat /tmp/salloc-own"),
    );

    const hetero = await batch(machine, "-o out-%j -n 1 : -n 1", "srun --het-group=0,1 /usr/local/bin/ask");
    await areOfJobs("a heterogeneous job: component 1 has an id of its own", hetero.text, 2, [
      hetero.id,
      String(Number(hetero.id) + 1),
    ]);
    const environment = answersIn(hetero.text).map(({ job }) => job);
    holds(
      "SLURM_JOB_ID of a heterogeneous job's components is the first's",
      environment.length === 2 && environment.every((id) => id === hetero.id),
      environment.join(" "),
    );

    const outlived = await batch(
      machine,
      "-o out-%j",
      "setsid sleep 98765 >/dev/null 2>&1 &\nsleep 1\n/usr/local/bin/ask",
    );
    await areOfJobs("a job that leaves a process behind", outlived.text, 1, [outlived.id]);
    await until(
      "the job has ended",
      async () => (await machine.ok(`squeue -h -j ${outlived.id} 2>/dev/null; true`)).trim() === "",
    );
    const behind = await machine.run("pgrep -u alice -f 'sleep 98765'");
    holds("a process that was to outlive its job has ended with it", behind.code === 1, behind.stdout);

    for (const hook of ["prolog", "epilog"]) {
      await until(`the ${hook} ran`, async () => (await machine.run(`test -s /run/${hook}.log`)).code === 0);
      const said = answersIn(await machine.ok(`cat /run/${hook}.log`));
      const holding =
        said.length > 0 && said.every(({ who, role }) => who === "root" && role === INSTANCE_ROLE);
      holds(`the ${hook} is root, and has the instance role`, holding, JSON.stringify(said.slice(0, 2)));
    }

    await waysOut(context, refused);
    await adopted(context, areOfJobs, refused);
    await withoutCgroups(context, refused);
  },
};

type Refused = (what: string, text: string) => Promise<void>;
type AreOfJobs = (what: string, text: string, answers: number, ids?: readonly string[]) => Promise<void>;

/** What a user's own manager starts is in no job; a name like a job's does not make one. */
async function waysOut({ machine }: Context, refused: Refused): Promise<void> {
  const uid = (await machine.ok("id -u alice")).trim();
  await machine.ok("loginctl enable-linger alice");
  await until(
    "alice's manager runs",
    async () => (await machine.run(`test -S /run/user/${uid}/bus`)).code === 0,
  );
  const left = await batch(
    machine,
    "-o out-%j",
    `export XDG_RUNTIME_DIR=/run/user/${uid}; systemd-run --user --wait --collect -q --pipe /usr/local/bin/ask`,
  );
  await refused("systemd-run --user leaves the job: refused as outside", left.text);
  await machine.write("/usr/local/bin/forge", FORGE, 0o755);
  const forged = await batch(
    machine,
    "-o out-%j",
    `export XDG_RUNTIME_DIR=/run/user/${uid}; systemd-run --user --wait --collect -q --pipe -p Delegate=yes /usr/local/bin/forge`,
  );
  await refused(
    "a cgroup of alice's own by the name of a job is no job",
    forged.text.replaceAll("/job_1/", "/forged_1/"),
  );
  await machine.ok("loginctl disable-linger alice");
}

/** ssh to the node while a job runs there, with pam_slurm_adopt; and without pam_systemd, as Slurm's own page asks. */
async function adopted({ machine }: Context, areOfJobs: AreOfJobs, refused: Refused): Promise<void> {
  await machine.ok(
    "su alice -c 'mkdir -p -m 700 ~/.ssh && ssh-keygen -q -t ed25519 -N \"\" -f ~/.ssh/id_ed25519 && cp ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys'; systemctl start ssh",
  );
  const ssh =
    "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i /home/alice/.ssh/id_ed25519 alice@127.0.0.1 /usr/local/bin/ask";
  await refused("ssh without pam_slurm_adopt is in no job", await machine.ok(ssh, { as: "alice" }));
  await machine.ok(
    "cp /etc/pam.d/sshd /root/pam.sshd && echo 'account required pam_slurm_adopt.so' >>/etc/pam.d/sshd",
  );
  const id = (
    await machine.ok("cd /home/alice && sbatch --parsable -w node -o /dev/null", {
      as: "alice",
      stdin: "#!/bin/sh\nsleep 3600\n",
    })
  ).trim();
  await until("the job runs", async () => (await machine.ok(`squeue -h -j ${id} -o %t`)).trim() === "R");
  await until(
    "its cgroup is there",
    async () =>
      (
        await machine.run(
          `cd /sys/fs/cgroup/system.slice && ls -d *slurmstepd.scope/job_${id}/step_extern *slurmstepd.scope/$(squeue -h -j ${id} -O SLUID | xargs)/step_extern`,
        )
      ).stdout !== "",
  );
  await refused(
    "ssh with pam_slurm_adopt: pam_systemd takes it out of the job again, into a session's scope",
    await machine.ok(ssh, { as: "alice" }),
  );
  await machine.ok(
    "cp /etc/pam.d/common-session /root/pam.session && sed -i '/pam_systemd/d' /etc/pam.d/common-session",
  );
  await areOfJobs(
    "ssh with pam_slurm_adopt, without pam_systemd, is in the job",
    await machine.ok(ssh, { as: "alice" }),
    1,
    [id],
  );
  await machine.ok(
    `scancel ${id}; cp /root/pam.sshd /etc/pam.d/sshd; cp /root/pam.session /etc/pam.d/common-session`,
  );
  await idle(machine);
}

/** The same Slurm, which puts no job into a cgroup: a rule for jobs refuses, and the tools say so. */
async function withoutCgroups({ machine, holds }: Context, refused: Refused): Promise<void> {
  await machine.ok(
    "sed -i 's|^ProctrackType=.*|ProctrackType=proctrack/linuxproc|; s|^PrologFlags=.*|PrologFlags=alloc|' /etc/slurm/slurm.conf && systemctl restart slurmctld slurmd slurmd-other",
  );
  await idle(machine);
  const job = await batch(machine, "-o out-%j", "/usr/local/bin/ask");
  await refused("proctrack/linuxproc: a job of alice's is not known, and refused as outside", job.text);
  const says = /ProctrackType=proctrack\/linuxproc.*a rule that needs one refuses/;
  const check = await machine.run("imdsproxy config check");
  holds("proctrack/linuxproc: config check says so", says.test(check.stderr), check.stderr);
  const json = await machine.run("imdsproxy config check --json");
  holds("proctrack/linuxproc: config check --json says so", says.test(json.stdout), json.stdout);
  const setup = await machine.run("imdsproxy setup --verify-as bob");
  holds(
    "proctrack/linuxproc: setup says so",
    setup.code === 0 && says.test(setup.stdout + setup.stderr),
    setup.stdout + setup.stderr,
  );
}
