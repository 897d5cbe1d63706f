/** A virtual machine as a node of a cluster: the agent of HyperPod, STS, three users; the release to install at /opt/payload. */
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { writeRelease } from "../../../scripts/release.ts";
import { executableOf, HAMMER, INSTANCE_ROLE, nodeUnits, STS } from "../../boot/support/node.ts";
import type { Cell } from "../cells.ts";
import { Container } from "./container.ts";
import { ec2Files } from "./ec2.ts";
import type { Machine } from "./machine.ts";
import { type Architecture, buildImage, CACHE, REPOSITORY, VirtualMachine } from "./virtual-machine.ts";

export const PAYLOAD = "/opt/payload";
const STAND_IN = `${PAYLOAD}/stand-in`;

const ACCOUNT = "arn:aws:iam::842413447717:role";
/** Who is whom: each user has a role of their own, so that every answer tells for whom it was made. */
export const ROLES = { alice: "AliceRole", bob: "BobRole", carol: "ImdsProxyTestRole" } as const;
export type User = keyof typeof ROLES;
export const USERS = Object.keys(ROLES) as readonly User[];

export const CONFIGURATION = `listen: 127.0.0.1:254
region: us-west-2
sts: { endpoint: "${STS}" }
role: ${ACCOUNT}/${ROLES.carol}
sessionName: "{user}@node"
rules:
  - name: alice
    match: { user: [alice] }
    role: ${ACCOUNT}/${ROLES.alice}
  - name: bob
    match: { user: [bob] }
    role: ${ACCOUNT}/${ROLES.bob}
`;

/** Runs a command, and fails where it fails. */
function must(argv: readonly string[]): void {
  const ran = Bun.spawnSync([...argv], { cwd: REPOSITORY, stderr: "pipe" });
  if (ran.exitCode !== 0) throw new Error(`${argv.join(" ")}: ${ran.stderr.toString()}`);
}

/** What is to be installed, the stand-ins and the attackers' programs: as a directory, and as a disk with it. */
export interface Payload {
  readonly directory: string;
  readonly disk: string;
}

/** The version of the executable in the payload that stands for the next release, at PAYLOAD/next. */
export const NEXT_VERSION = "9.9.9";

/** By Debian's names: what Bun calls it, and the executable of this tree for it. */
const TARGETS: Readonly<Record<Architecture, { readonly bun: string; readonly executable: string }>> = {
  amd64: { bun: "linux-x64", executable: "dist/imdsproxy" },
  arm64: { bun: "linux-arm64", executable: "dist/imdsproxy-linux-arm64" },
};

/** Made anew for each run; IMDSPROXY_PLATFORM_PAYLOAD=keep takes the last run's, as a second run beside the first has to. */
export function buildPayload(architecture: Architecture = "amd64"): Payload {
  const directory = join(CACHE, architecture === "amd64" ? "payload" : `payload-${architecture}`);
  const disk = `${directory}.img`;
  if (process.env["IMDSPROXY_PLATFORM_PAYLOAD"] === "keep" && existsSync(disk)) return { directory, disk };
  const target = TARGETS[architecture];
  const executable = join(REPOSITORY, target.executable);
  // `make build` has made this machine's own.
  if (architecture !== "amd64") must([process.execPath, "scripts/build.ts", target.bun]);
  if (!existsSync(executable)) throw new Error(`${executable} is missing: make build`);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  writeRelease(
    join(directory, "release"),
    [{ name: `imdsproxy-${target.bun}`, bytes: readFileSync(executable) }],
    [{ name: "install.sh", content: readFileSync(join(REPOSITORY, "scripts/install.sh")), mode: 0o755 }],
  );
  must([
    ...[process.execPath, "build", "--compile", "--format=esm", "--bytecode", `--target=bun-${target.bun}`],
    ...["test/boot/support/stand-in.ts", `--outfile=${directory}/stand-in`],
  ]);
  cpSync(join(REPOSITORY, "test/attack/programs"), join(directory, "programs"), { recursive: true });
  cpSync(join(REPOSITORY, "test/platforms/programs"), join(directory, "programs"), { recursive: true });
  if (architecture === "amd64") {
    // For containers alone.
    const preloaded = [`${directory}/cgroup-v2-only.so`, "test/platforms/programs/cgroup-v2-only.c"];
    must(["cc", "-shared", "-fPIC", "-O1", "-o", ...preloaded]);
    // For the upgrade, which arm64 does not try.
    cpSync(executableOf(NEXT_VERSION), join(directory, "next"));
  }
  rmSync(disk, { force: true });
  must(["truncate", "-s", "640M", disk]);
  must(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-L", "payload", "-d", directory, disk]);
  return { directory, disk };
}

/** A cell's machine, on, with what is around a node, and nothing of ours installed yet. */
export async function startNode(cell: Cell, payload: Payload): Promise<Machine> {
  const machine = makeMachine(cell, payload);
  try {
    await machine.boot();
    if (cell.kind === "kernel") return machine;
    await machine.booted();
    await surround(machine, cell);
    return machine;
  } catch (error) {
    const console = machine.console().slice(-2000);
    await machine.destroy();
    throw new Error(`${error}\n${console}`);
  }
}

function makeMachine(cell: Cell, payload: Payload): Container | VirtualMachine {
  const { kind, suite, architecture = "amd64", packages, kernelArguments = [], memoryMiB, cgroups } = cell;
  const image = buildImage(suite, packages, architecture, kind === "container" ? "container" : "vm");
  if (kind === "container")
    return new Container({
      image,
      payload: payload.directory,
      ...(cgroups === undefined ? {} : { cgroups }),
      kernelArguments,
      ...(cell.node === "ec2" ? { files: ec2Files(STAND_IN) } : {}),
    });
  return new VirtualMachine({
    image,
    architecture,
    payload: payload.disk,
    // Without systemd, the agent is the first process: it brings the machine up itself.
    kernelArguments: [
      ...kernelArguments,
      ...(kind === "kernel" ? ["init=/usr/bin/python3", "--", "/usr/local/lib/vm-agent.py"] : []),
    ],
    ...(memoryMiB === undefined ? {} : { memoryMiB }),
  });
}

/** What EC2 has in place of (support/ec2.ts). */
const HYPERPODS: readonly string[] = ["node-network.service", "hyperpod-agent.service"];

/** Brings the agent, STS and the attackers: a unit that runs as alice from sysinit.target on. */
async function surround(machine: Machine, { node = "hyperpod" }: Cell): Promise<void> {
  const all = nodeUnits({ agent: "early", standIn: STAND_IN });
  const units = node === "ec2" ? all.filter(({ name }) => !HYPERPODS.includes(name)) : all;
  for (const { name, text } of units) await machine.write(`/etc/systemd/system/${name}`, text);
  // The agent's executable is on the payload's disk.
  if (node === "hyperpod")
    await machine.write(
      "/etc/systemd/system/hyperpod-agent.service.d/disk.conf",
      `[Unit]\nRequiresMountsFor=${PAYLOAD}\n`,
    );
  await machine.write("/usr/local/lib/hammer.py", HAMMER);
  // In memory: the attack goes on whatever the disk is. The nice value counts among alice's processes alone once a unit has a CPUWeight
  // (ours have): by the weight of others she would take half of the one processor from the commands that are waited for.
  await machine.write(
    "/etc/systemd/system/hammer.service",
    `[Unit]\nDefaultDependencies=no\nAfter=sysinit.target\n[Service]\nUser=alice\nNice=19\nCPUWeight=2\nRestart=always\n` +
      `ExecStart=/usr/bin/python3 /usr/local/lib/hammer.py /dev/shm/hammer.log\n[Install]\nWantedBy=multi-user.target\n`,
  );
  await machine.ok(
    `systemctl daemon-reload && systemctl -q enable --now ${units.map(({ name }) => name).join(" ")} hammer.service`,
  );
  await machine.ok(
    `for i in $(seq 600); do curl -s -m 2 http://127.0.0.1:8080/ >/dev/null && ${node === "hyperpod" ? "curl -s -m 2 http://169.254.0.2:9081/ >/dev/null" : "systemctl -q is-active metadata"} && exit 0; sleep 0.5; done; exit 1`,
  );
}

/** What the attacker had since the count was last begun anew. */
export async function hammered(machine: Machine): Promise<{ tries: number; leaks: number }> {
  const text = await machine.ok(
    "grep -c '^169' /dev/shm/hammer.log; grep -c 'LEAK$' /dev/shm/hammer.log; true",
  );
  const [tries = 0, leaks = 0] = text.trim().split("\n").map(Number);
  return { tries, leaks };
}

/** Not to be created: where fs.protected_regular is 2 (systemd's default), nor may root open a user's file in such a directory so. */
export const forgetHammered = (machine: Machine) => machine.ok("truncate -c -s 0 /dev/shm/hammer.log");

/** What a caller's list of roles says, or what curl complained of. */
export async function roleOf(machine: Machine, as?: string): Promise<string> {
  const base = "http://169.254.169.254/latest";
  const ran = await machine.run(
    `t=$(curl -sS -m 20 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' ${base}/api/token) && ` +
      `curl -sS -m 20 -H "X-aws-ec2-metadata-token: $t" ${base}/meta-data/iam/security-credentials/`,
    as === undefined ? {} : { as },
  );
  return (ran.stdout || ran.stderr).trim();
}

export { INSTANCE_ROLE };
