import { chownSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { ImdsProxyError } from "../errors.ts";
import { systemClock } from "../platform/clock.ts";
import { runProgram } from "../platform/programs.ts";
import { compiledExecutable } from "../platform/self.ts";
import { homeOf, type NodeUser, withUsers } from "./accounts.ts";
import { createInstanceSecrets, type InstanceSecrets } from "./imds/secrets.ts";
import type { ImdsLogEntry } from "./imds/server.ts";
import type { ImdsMode } from "./imds/service.ts";
import { DEFAULT_FACTS } from "./imds/tree.ts";
import { type Namespace, openNamespace } from "./namespace.ts";
import { ADDRESSES, awsNetwork, nodeNetwork, ORIGINAL_ENTRY } from "./network.ts";
import { type ProxyOptions, type RunningProxy, startProxyIn } from "./proxy.ts";
import { type RunAs, type Running, type RunOptions, type RunResult, runIn } from "./run.ts";
import { demoParts, type RemotePart, startPart } from "./stand-in.ts";
import { instancePrincipal } from "./sts/principals.ts";
import type { StsLogEntry, StsMode, StsStandInOptions } from "./sts/server.ts";

/** What kind of node, and who is on it. */
export interface NodeOptions {
  /** `hyperpod`: the agent on 169.254.0.2:9081 and its original iptables entry; `ec2`: neither. Default hyperpod. */
  readonly kind?: "hyperpod" | "ec2";
  /** Default: alice (2001), bob (2002). */
  readonly users?: readonly NodeUser[];
  /** How the metadata service behaves at first. */
  readonly imdsMode?: Partial<ImdsMode>;
  /** How STS behaves at first. */
  readonly stsMode?: Partial<StsMode>;
  /** Whether EC2's service gives other credentials than the agent, as on a real HyperPod node: a session named EC2. Default false. */
  readonly ec2Session?: boolean;
  /** Which iptables the node's programs use; default: what the machine's `iptables` is. `legacy` needs Debian's names. */
  readonly iptables?: "nft" | "legacy";
  /** The executable that is `/run/bin/imdsproxy` on the node; default: this one, where it is compiled. */
  readonly executable?: string;
  /** Further files and directories of the machine that the node shows, by their path on the node (below `/run`). */
  readonly show?: Readonly<Record<string, string>>;
  /** The command line that serves the stand-ins; default this program. */
  readonly parts?: readonly string[];
}

/** Whom a command runs as: an account's name (`root` included), or a uid without an account. */
export type Who = { readonly user: string } | { readonly uid: number; readonly gid?: number };

/** The controls of a stand-in of the simulated node. */
export interface Controls<LogEntry, Mode> {
  /** Everything that reached it since the start or the last clear. */
  log(): Promise<readonly LogEntry[]>;
  clearLog(): Promise<void>;
  /** Changes the named parts of its behaviour. */
  set(mode: Partial<Mode>): Promise<void>;
}
export type ImdsControls = Controls<ImdsLogEntry, ImdsMode>;
export type StsControls = Controls<StsLogEntry, StsMode>;

/** A node in namespaces of this machine, of which nothing outlives this process. */
export interface SimulatedNode {
  readonly secrets: InstanceSecrets;
  /** The instance role's name. */
  readonly roleName: string;
  /** Whether the node has IPv6: where the machine's kernel has. */
  readonly ipv6: boolean;
  /** EC2's metadata service. */
  readonly imds: ImdsControls;
  /** HyperPod's agent, where the node has one. */
  readonly agent: ImdsControls | null;
  readonly sts: StsControls;
  /** Where it answers, as a URL. */
  readonly stsEndpoint: string;
  /** Runs a command and waits for its end. */
  exec(options: Who & RunOptions): Promise<RunResult>;
  /** Starts a command. */
  spawn(options: Who & RunOptions): Running;
  /** The path by which this process reaches a file of the node. */
  path(nodePath: string): string;
  /** Writes a file on the node, directories included; mode 0644 unless given. */
  write(nodePath: string, text: string, mode?: number): void;
  /** Starts `imdsproxy serve` as root on the node; resolves when it listens. */
  startProxy(options?: ProxyOptions): Promise<RunningProxy>;
  /** Ends everything. */
  stop(): Promise<void>;
}

const DEFAULT_USERS: readonly NodeUser[] = [
  { name: "alice", uid: 2001 },
  { name: "bob", uid: 2002 },
];

/**
 * Makes the node's own file system. /etc is a copy, so that changes to accounts and configuration stay on the node; the
 * configuration of an imdsproxy that serves this machine is left out, and a link among the account files is replaced by a copy, because
 * a write would follow it back to the machine. Directories that programs write to, and homes, which may hold real credentials, are
 * covered by empty ones. Files to be shown are bound first, while their sources can still be seen.
 */
const FILES_SCRIPT = `
set -eu
mount -t tmpfs -o mode=755 imdsproxy-demo /run
mkdir -p /run/bin /run/lock /run/home/root
cp -a /etc /run/etc
rm -rf /run/etc/imdsproxy
for accounts in passwd group subuid subgid; do
  if [ -L "/etc/$accounts" ]; then
    rm -f "/run/etc/$accounts"
    cp -L "/etc/$accounts" "/run/etc/$accounts"
  fi
done
mount --bind /run/etc /etc
while [ $# -gt 0 ]; do
  mkdir -p "$(dirname "$2")"
  if [ -d "$1" ]; then mkdir -p "$2"; else : >"$2"; fi
  mount --bind "$1" "$2"
  shift 2
done
for open in /tmp /var/tmp /dev/shm; do
  mount -t tmpfs -o mode=1777 imdsproxy-demo "$open"
done
for covered in /home /root /var/lib /var/log; do
  mount -t tmpfs -o mode=755 imdsproxy-demo "$covered"
done
`;

/** Some distributions switch IPv6 off for new namespaces; ours has it where the kernel does. */
const IPV6_SCRIPT = `
if [ -e /proc/sys/net/ipv6/conf/all/disable_ipv6 ]; then
  echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6
  echo 0 >/proc/sys/net/ipv6/conf/default/disable_ipv6
fi
`;

/**
 * Builds a node beside the machine: nothing of the machine's own network, accounts, files or iptables is touched.
 * Takes a fraction of a second. Needs root.
 *
 * @throws ImdsProxyError `missing` or `command-failed`.
 */
export async function startNode(options: NodeOptions = {}): Promise<SimulatedNode> {
  const kind = options.kind ?? "hyperpod";
  const users = options.users ?? DEFAULT_USERS;
  const shown = shownFiles(options);
  const secrets = createInstanceSecrets();
  const ec2Secrets = options.ec2Session === true ? createInstanceSecrets() : secrets;
  const ipv6 = existsSync("/proc/sys/net/ipv6");

  const opened: Namespace[] = [];
  try {
    const aws = await openNamespace(IPV6_SCRIPT, []);
    opened.push(aws);
    const inner = await openNamespace(IPV6_SCRIPT + FILES_SCRIPT, shown.flat());
    opened.push(inner);
    const root: RunAs = { uid: 0, gid: 0, name: "root", home: homeOf("root") };

    const path = (nodePath: string) => `/proc/${inner.pid}/root${nodePath}`;
    addAccounts(path, users);
    await wire(
      ["nsenter", `--net=/proc/${aws.pid}/ns/net`, "ip", "-batch", "-"],
      awsNetwork(inner.pid, ipv6),
    );
    const nodeBatch = nodeNetwork(kind === "hyperpod", ipv6);
    await wire(["nsenter", `--net=/proc/${inner.pid}/ns/net`, "ip", "-batch", "-"], nodeBatch);

    const run = (as: RunAs, runOptions: RunOptions) => runIn(inner, as, runOptions);
    if (options.iptables !== undefined)
      await chooseIptables(options.iptables, (argv) => run(root, { argv }).done);

    const { imds4, imds6, agent: agentAddress, agentPort, aws4, stsPort } = ADDRESSES;
    const imdsListen = [{ address: imds4, port: 80 }, ...(ipv6 ? [{ address: imds6, port: 80 }] : [])];
    const mode = options.imdsMode ?? {};
    const parts = options.parts ?? demoParts();
    const stsOptions: StsStandInOptions = {
      listen: [{ address: aws4, port: stsPort }],
      principals: [
        instanceRole(secrets, INSTANCE_SESSION_NAME),
        ...(ec2Secrets === secrets ? [] : [instanceRole(ec2Secrets, "EC2")]),
      ],
      mode: options.stsMode ?? {},
    };
    const [imds, sts, agent] = await Promise.all([
      startPart(aws, parts, "imds", { secrets: ec2Secrets, mode, listen: imdsListen }),
      startPart(aws, parts, "sts", stsOptions),
      kind === "ec2"
        ? null
        : startPart(inner, parts, "imds", {
            secrets,
            mode,
            listen: [{ address: agentAddress, port: agentPort }],
          }),
      kind === "ec2" ? null : addOriginalEntry((argv) => run(root, { argv }).done),
    ]);

    const whoIs = (who: Who): RunAs => {
      if ("uid" in who) return { uid: who.uid, gid: who.gid ?? who.uid, name: null, home: "/" };
      if (who.user === "root") return root;
      const user = users.find(({ name }) => name === who.user);
      if (user === undefined) throw new ImdsProxyError("usage", `the simulated node has no user ${who.user}`);
      return { uid: user.uid, gid: user.gid ?? user.uid, name: user.name, home: homeOf(user.name) };
    };
    return {
      secrets,
      roleName: DEFAULT_FACTS.roleName,
      ipv6,
      imds: controls(imds),
      agent: agent === null ? null : controls(agent),
      sts: controls(sts),
      stsEndpoint: `http://${aws4}:${stsPort}`,
      exec: (execOptions) => run(whoIs(execOptions), execOptions).done,
      spawn: (spawnOptions) => run(whoIs(spawnOptions), spawnOptions),
      path,
      write(nodePath, text, fileMode = 0o644) {
        mkdirSync(dirname(path(nodePath)), { recursive: true });
        writeFileSync(path(nodePath), text, { mode: fileMode });
      },
      startProxy: (proxyOptions = {}) =>
        startProxyIn({ pid: inner.pid, path, run: (runOptions) => run(root, runOptions) }, proxyOptions),
      stop: () => closeAll(opened),
    };
  } catch (error) {
    await closeAll(opened);
    throw error;
  }
}

/** HyperPod names the sessions of its instance roles so. */
const INSTANCE_SESSION_NAME = "SageMaker";
const INSTANCE_SESSION_MS = 6 * 3600 * 1000;

function instanceRole(secrets: InstanceSecrets, sessionName: string) {
  const roleArn = `arn:aws:iam::${DEFAULT_FACTS.account}:role/${DEFAULT_FACTS.roleName}`;
  return instancePrincipal(secrets.role, roleArn, sessionName, systemClock.now() + INSTANCE_SESSION_MS);
}

async function closeAll(namespaces: readonly Namespace[]): Promise<void> {
  await Promise.all(namespaces.map((namespace) => namespace.close()));
}

function shownFiles(options: NodeOptions): [machine: string, node: string][] {
  const executable = options.executable ?? compiledExecutable();
  const shown: [string, string][] = Object.entries(options.show ?? {}).map(([node, machine]) => [
    machine,
    node,
  ]);
  if (executable !== null) shown.push([executable, "/run/bin/imdsproxy"]);
  for (const [machine] of shown) {
    if (existsSync(machine)) continue;
    throw new ImdsProxyError("missing", `the simulated node is to show ${machine}, which does not exist`);
  }
  return shown;
}

function addAccounts(path: (nodePath: string) => string, users: readonly NodeUser[]): void {
  const read = (name: string) => (existsSync(path(name)) ? readFileSync(path(name), "utf8") : "");
  const files = withUsers(
    {
      passwd: read("/etc/passwd"),
      group: read("/etc/group"),
      subuid: read("/etc/subuid"),
      subgid: read("/etc/subgid"),
    },
    users,
  );
  for (const [name, text] of Object.entries(files)) writeFileSync(path(`/etc/${name}`), text);
  for (const { name, uid, gid = uid } of users) {
    const home = path(homeOf(name));
    mkdirSync(home, { mode: 0o700 });
    chownSync(home, uid, gid);
  }
}

function controls<LogEntry, Mode>(part: RemotePart): Controls<LogEntry, Mode> {
  return {
    log: async () => (await part.call("log")) as readonly LogEntry[],
    async clearLog() {
      await part.call("clearLog");
    },
    async set(mode) {
      await part.call("set", mode);
    },
  };
}

type RunAsRoot = (argv: readonly string[]) => Promise<RunResult>;

async function addOriginalEntry(run: RunAsRoot): Promise<void> {
  const { exitCode, stderr } = await run([
    "iptables",
    "-w",
    "5",
    "-t",
    "nat",
    "-A",
    "OUTPUT",
    ...ORIGINAL_ENTRY,
  ]);
  if (exitCode === 0) return;
  throw new ImdsProxyError(
    "command-failed",
    `cannot add the agent's iptables entry to the node: ${stderr.trim()}`,
  );
}

async function chooseIptables(variant: "nft" | "legacy", run: RunAsRoot): Promise<void> {
  const links = ["iptables", "ip6tables"].flatMap((name) =>
    ["", "-save", "-restore"].map(
      (suffix) => [`${name}${suffix}`, `/usr/sbin/${name}-${variant}${suffix}`] as const,
    ),
  );
  const script = links.map(([name, target]) => `ln -sf ${target} /run/bin/${name}`).join("\n");
  const { exitCode, stderr } = await run(["sh", "-euc", script]);
  if (exitCode !== 0)
    throw new ImdsProxyError("command-failed", `cannot choose iptables-${variant}: ${stderr.trim()}`);
}

async function wire(argv: readonly string[], stdin: string): Promise<void> {
  const { exitCode, stderr } = await runProgram(argv, { input: stdin });
  if (exitCode === 0) return;
  throw new ImdsProxyError("command-failed", `cannot wire the simulated node: ${stderr.trim()}`);
}
