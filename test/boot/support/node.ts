/** A machine as a node of a cluster: a network, the HyperPod agent or EC2's metadata service, STS, users, sshd and slurmd. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { EXECUTABLE } from "../../support/node.ts";
import { Machine, type MachineOptions, until } from "./machine.ts";

const REPOSITORY = resolve(import.meta.dir, "../../..");
export const SOURCE = "/opt/imdsproxy-source";
export const STAND_IN = `${SOURCE}/node_modules/.bin/bun ${SOURCE}/test/boot/support/stand-in.ts`;

export const ROLE_ARN = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";
export const ROLE = "ImdsProxyTestRole";
export const INSTANCE_ROLE = "MySageMakerClusterInstanceRole";
export const STS = "http://127.0.0.1:8080";

export interface NodeOptions extends MachineOptions {
  /** `hyperpod` (default): the agent at 169.254.0.2:9081 with its entry; `ec2`: the metadata service at its own address. */
  readonly kind?: "hyperpod" | "ec2";
  /** `early`: before any user can be there, so that whoever is not kept out gets in. `late` (default): 1 s after the network. */
  readonly agent?: "early" | "late";
  /** The executable; default dist/imdsproxy, which `make build` makes. */
  readonly binary?: string;
}

/** Where the executable to install is on the machine. */
export const DOWNLOADED = "/root/imdsproxy";

/** `setup` with what the stand-ins need. */
export const SETUP = `${DOWNLOADED} setup --role-arn ${ROLE_ARN} --sts-endpoint ${STS} --region us-west-2`;

/** How many sockets an attacker with interfaces has at once for each address and interface. */
const PER_ROUND = 4;

/** How many tries an attacker makes at once who binds sockets to so many interfaces. */
export const triesAtOnce = (interfaces: number): number =>
  interfaces === 0 ? 1 : 2 * (1 + interfaces) * PER_ROUND;

/**
 * The attack of a user who is there from the first moment: asks the metadata address and the agent's for the instance
 * role's credentials, over and over, and writes down what it got. In Python, which starts fast. With interfaces, to which it
 * binds further sockets, it asks at every place at once, with {@link PER_ROUND} sockets each: on an interface behind which nobody
 * is, each try waits for its half second. It writes down what it got when all of them have ended.
 */
export const HAMMER = `
import socket, sys, time
PER_ROUND = ${PER_ROUND}
out = open(sys.argv[1], "a", buffering=1)
targets = [("169.254.169.254", 80, None), ("169.254.0.2", 9081, None)]
for device in sys.argv[2:]: targets += [(address, port, device.encode()) for address, port, _ in targets[:2]]
path = b"/latest/meta-data/iam/security-credentials/${INSTANCE_ROLE}"
def ask(target):
    s = socket.socket()
    s.settimeout(0.5)
    try:
        if target[2]: s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, target[2])
        s.connect(target[:2])
        s.sendall(b"GET " + path + b" HTTP/1.1\\r\\nHost: 169.254.169.254\\r\\nConnection: close\\r\\n\\r\\n")
        got = b""
        while True:
            piece = s.recv(65536)
            if not piece: break
            got += piece
        if b"AccessKeyId" in got: return "LEAK"
        return "answer " + got.split(b"\\r\\n")[0].decode("latin1")
    except OSError as error:
        return type(error).__name__
    finally:
        s.close()
print("start", time.monotonic(), file=out)
if len(targets) > 2:
    import threading
    targets *= PER_ROUND
    def ask_all():
        got = {}
        askers = [threading.Thread(target=lambda at=at: got.update({at: ask(targets[at])})) for at in range(len(targets))]
        for asker in askers: asker.start()
        for asker in askers: asker.join()
        return [(target, got.get(at)) for at, target in enumerate(targets)]
else:
    ask_all = lambda: ((target, ask(target)) for target in targets)
while True:
    for target, result in ask_all():
        print(target[0], result, file=out)
    time.sleep(0.01)
`;

/** systemd gives up after five starts in ten seconds; an attacker does not. */
const AGAIN_AND_AGAIN = "StartLimitIntervalSec=0";

/** The attackers, by how they come to run at boot. */
export const HAMMERS = ["unit", "cron", "linger"] as const;

const unit = (description: string, body: string, wantedBy = "multi-user.target") =>
  `[Unit]\nDescription=${description}\n${body}\n[Install]\nWantedBy=${wantedBy}\n`;

/** A unit of the node's surroundings, and the target that wants it. */
export interface NodeUnit {
  readonly name: string;
  readonly text: string;
  readonly target: string;
}

/**
 * The units of what is around the node: its network, the agent or the metadata service, STS, slurmd.
 *
 * @param options.standIn the command that runs stand-in.ts.
 */
export function nodeUnits(
  options: Pick<NodeOptions, "kind" | "agent"> & { standIn: string },
): readonly NodeUnit[] {
  const agent = (options.kind ?? "hyperpod") === "hyperpod";
  const early = options.agent === "early";
  const address = agent ? "169.254.0.2" : "169.254.169.254";
  const port = agent ? 9081 : 80;
  const entry = "OUTPUT 1 -d 169.254.169.254/32 -p tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081";
  const target = "multi-user.target";
  return [
    {
      name: "node-network.service",
      text: unit(
        "The node's network",
        `Wants=network.target
Before=network.target
After=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'ip link add eth0 type veth peer name far0; ip link set eth0 up; ip link set far0 up; ip addr add 10.0.0.2/24 dev eth0; ip route add default via 10.0.0.1'`,
      ),
      target,
    },
    {
      name: "hyperpod-agent.service",
      text: unit(
        "The stand-in for the agent of HyperPod",
        `${early ? "DefaultDependencies=no\nAfter=systemd-remount-fs.service" : "After=network.target"}
[Service]
${early ? "" : "ExecStartPre=/bin/sleep 1"}
ExecStartPre=-/bin/ip addr add ${address}/32 dev lo
${agent ? `ExecStartPre=-/usr/sbin/iptables -w 10 -t nat -I ${entry}` : ""}
ExecStart=${options.standIn} imds ${address}:${port}
Restart=always`,
      ),
      target: early ? "sysinit.target" : target,
    },
    {
      name: "sts.service",
      text: unit(
        "The stand-in for STS",
        `After=network.target hyperpod-agent.service\n[Service]\nExecStart=${options.standIn} sts 127.0.0.1:8080`,
      ),
      target,
    },
    {
      name: "slurmd.service",
      text: unit(
        "The stand-in for slurmd, which runs users' jobs",
        "After=network.target\n[Service]\nExecStart=/bin/sleep infinity",
      ),
      target,
    },
  ];
}

/** Makes the machine, off. */
export function makeNode(options: NodeOptions = {}): Machine {
  const machine = new Machine(options);
  const binary = options.binary ?? EXECUTABLE;
  if (!existsSync(binary)) throw new Error(`${binary} is missing: make build`);
  machine.copyIn(binary, DOWNLOADED);

  // In a container with cgroup v1 the kernel does not tell systemd that a cgroup has become empty (systemd.io, "Control Group
  // APIs"), and a user's manager that has long ended is waited for; the default is two minutes.
  machine.write("etc/systemd/system/user@.service.d/stop.conf", "[Service]\nTimeoutStopSec=5s\n");

  for (const { name, text, target } of nodeUnits({ ...options, standIn: STAND_IN })) {
    machine.write(`etc/systemd/system/${name}`, text);
    machine.enable(name, target);
  }
  return machine;
}

/**
 * Adds the attackers: a unit that runs as alice as early as any with ordinary dependencies, her @reboot job in cron, and a
 * unit of her own that systemd starts because she lingers. Each writes to a file.
 *
 * @param directory where she can write; default her home.
 * @param devices interfaces to which she binds further sockets.
 */
export function addHammers(
  machine: Machine,
  directory = "/home/alice",
  devices: readonly string[] = [],
): void {
  machine.write("usr/local/lib/hammer.py", HAMMER);
  const command = (name: string) =>
    `/usr/bin/python3 /usr/local/lib/hammer.py ${[`${directory}/hammer-${name}.log`, ...devices].join(" ")}`;
  machine.write(
    "etc/systemd/system/hammer.service",
    unit(
      "An attacker who starts as early as can be",
      // sysinit.target is what every unit with ordinary dependencies waits for; this one waits for nothing else.
      `DefaultDependencies=no\nAfter=sysinit.target\n${AGAIN_AND_AGAIN}\n[Service]\nUser=alice\nExecStart=${command("unit")}\nRestart=always`,
    ),
  );
  machine.enable("hammer.service");
  machine.write("etc/cron.d/hammer", `@reboot alice ${command("cron")}\n`);
  machine.write("var/lib/systemd/linger/alice", "");
  machine.write(
    "etc/systemd/user/hammer.service",
    unit(
      "An attacker who lingers",
      `${AGAIN_AND_AGAIN}\n[Service]\nExecStart=${command("linger")}\nRestart=always`,
      "default.target",
    ),
  );
  machine.link("/etc/systemd/user/hammer.service", "etc/systemd/user/default.target.wants/hammer.service");
}

/** What each attacker wrote down since the last time that the files were thrown away; its tries are those since its last start. */
export async function hammered(
  machine: Machine,
  directory = "/home/alice",
): Promise<Record<string, { tries: number; leaks: number }>> {
  const found: Record<string, { tries: number; leaks: number }> = {};
  for (const name of HAMMERS) {
    const text = (await machine.run(`cat ${directory}/hammer-${name}.log`)).stdout;
    const lines = text.split("\n");
    const tries = lines.slice(lines.findLastIndex((line) => line.startsWith("start ")) + 1);
    found[name] = {
      tries: tries.filter((line) => line.startsWith("169")).length,
      leaks: lines.filter((line) => line.endsWith("LEAK")).length,
    };
  }
  return found;
}

/** What is to be known of the attacker who is a unit, where it does not try. */
export const hammerStatus = async (machine: Machine, directory = "/home/alice"): Promise<string> =>
  (
    await machine.run(
      `systemctl status --no-pager --lines=20 hammer; ls -l ${directory}; tail -n 3 ${directory}/hammer-unit.log; df -i ${directory}; cat /proc/loadavg`,
    )
  ).stdout;

/** Waits until each attacker has made so many tries since its last start or the last time that the files were thrown away. */
export const hammeredEnough = (machine: Machine, tries: number, directory?: string) =>
  until(`each attacker has made ${tries} tries`, async () =>
    Object.values(await hammered(machine, directory)).every((found) => found.tries >= tries),
  );

/**
 * Forgets what the attackers wrote down of the time before now. Each of them first ends the try that it is at, and one more,
 * since it may write down late what it got before the node was closed.
 *
 * @param atOnce how many tries each makes at once; see {@link triesAtOnce}.
 */
export async function forgetHammered(machine: Machine, directory = "/home/alice", atOnce = 1): Promise<void> {
  const before = await hammered(machine, directory);
  await until("each attacker has ended what it was at", async () =>
    Object.entries(await hammered(machine, directory)).every(
      ([name, { tries }]) => tries >= (before[name]?.tries ?? 0) + 2 * atOnce,
    ),
  );
  await machine.ok(`truncate -s 0 ${directory}/hammer-*.log`);
}

/** What the machine's own secrets file says: the marker in every secret of the instance role. */
export async function marker(machine: Machine): Promise<string> {
  const text = await machine.ok("cat /var/lib/stand-in/secrets.json");
  return (JSON.parse(text) as { marker: string }).marker;
}

const BASE = "http://169.254.169.254/latest";
/** Far longer than an answer takes, also on a machine that is busy: what must not be answered is refused, and does not wait. */
const ANSWERED_WITHIN_S = 20;
const ask = (path: string) =>
  `token=$(curl -sS --max-time ${ANSWERED_WITHIN_S} -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' ${BASE}/api/token) && ` +
  `curl -sS --max-time ${ANSWERED_WITHIN_S} -H "X-aws-ec2-metadata-token: $token" ${BASE}/meta-data/iam/security-credentials/${path}`;

/** What a caller's role list says: a role's name, or what curl complained of. */
export async function roleOf(machine: Machine, who?: string): Promise<string> {
  const ran = await machine.run(ask(""), who === undefined ? {} : { as: who });
  return (ran.stdout || ran.stderr).trim();
}

/**
 * Waits until a caller's role list names a role: after a boot or a restart, the agent and STS, which systemd takes for started
 * when their process is there, answer a moment later.
 */
export const getsRole = (machine: Machine, role: string, who?: string) =>
  until(
    `${who ?? "root"} has ${role}`,
    async () => (await roleOf(machine, who)) === role,
    undefined,
    async () =>
      `${await roleOf(machine, who)}\n${(await machine.run("imdsproxy status; journalctl -o short-monotonic -n 60 --no-pager")).stdout}`,
  );

/** The credentials document that a caller gets. */
export async function credentialsOf(machine: Machine, role: string, who?: string): Promise<string> {
  const ran = await machine.run(ask(role), who === undefined ? {} : { as: who });
  return ran.stdout;
}

/** Waits until a caller has credentials of a role: where the machine is busy, the first answer may be that they come later (503). */
export const getsCredentials = (machine: Machine, role: string, who?: string) =>
  until(`${who ?? "root"} has credentials of ${role}`, async () =>
    (await credentialsOf(machine, role, who)).includes('"Success"'),
  );

/** The file at a path of this repository. */
export const sourceFile = (path: string): string => readFileSync(join(REPOSITORY, path), "utf8");

/** What the executable is built of, as one number. */
function sourcesDigest(): string {
  const hash = createHash("sha256");
  const sources = readdirSync(join(REPOSITORY, "src"), { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".ts"))
    .map((path) => join("src", path))
    .sort();
  for (const path of [...sources, "package.json", "bun.lock"])
    hash.update(path).update(readFileSync(join(REPOSITORY, path)));
  return hash.digest("hex").slice(0, 12);
}

/**
 * The executable with another version and commit, as the next release would be. It is built once for the same sources and kept in
 * the cache directory, under a lock, since several files of tests ask for it at the same time.
 */
export function executableOf(version: string): string {
  const cache = join(REPOSITORY, ".cache");
  mkdirSync(cache, { recursive: true });
  const outfile = join(cache, `imdsproxy-${version}-${sourcesDigest()}`);
  const build = [
    ...[join(REPOSITORY, "node_modules/.bin/bun"), "build", "--compile", "--format=esm", "--bytecode"],
    ...[
      "--minify-syntax",
      "--minify-whitespace",
      "--no-compile-autoload-dotenv",
      "--no-compile-autoload-bunfig",
    ],
    ...[`--define=IMDSPROXY_VERSION="${version}"`, '--define=IMDSPROXY_COMMIT="test"'],
    ...["src/main.ts", `--outfile=${outfile}.part`],
  ];
  // Those of other sources go when nobody can be about to copy them any more.
  const script = `[ ! -e "$0" ] || exit 0
find ${cache} -maxdepth 1 -name 'imdsproxy-${version}*' -mmin +60 -delete
"$@" && mv "$0.part" "$0"`;
  const run = Bun.spawnSync(["flock", `${cache}/executable.lock`, "sh", "-c", script, outfile, ...build], {
    cwd: REPOSITORY,
    stderr: "pipe",
  });
  if (run.exitCode !== 0) throw new Error(run.stderr.toString());
  return outfile;
}

/**
 * Every rule, chain and policy of the machine. Not the tables that are empty: iptables-nft makes them when they are used for
 * the first time.
 */
export const RULES =
  "for f in iptables ip6tables; do $f-save | grep -vE '^(#|\\*|COMMIT|:[A-Z]+ ACCEPT)' | sed 's/\\[.*//'; done";

/**
 * Everything on the machine that an installation could change, as text that can be compared. Not what cron writes to /run a moment after
 * systemd has taken it for started, nor what apt's timer does at a moment of chance.
 */
export async function stateOf(machine: Machine): Promise<string> {
  return machine.ok(`
    cat /etc/passwd /etc/group /etc/shadow
    find /etc /usr /opt /var/lib /root /home -xdev \\( -path /var/lib/systemd -o -path /var/lib/apt -o -path '/home/*/hammer-*' -o -path /opt/imdsproxy-source \\
      -o -path /var/lib/stand-in -o -path /etc/.pwd.lock -o -path '/etc/*-' -o -path /etc/group -o -path /etc/passwd \\
      -o -path /etc/shadow -o -path /etc/gshadow -o -path /etc/subuid -o -path /etc/subgid \\) -prune \\
      -o -printf '%p %M %u %g %l\\n' | sort
    ls -A /run | grep -v -x -e log -e 'user' -e utmp -e 'crond\\..*'
    systemctl list-unit-files --no-legend | grep -i imds
    ${RULES}
    cat /proc/sys/net/ipv4/tcp_migrate_req
    true`);
}
