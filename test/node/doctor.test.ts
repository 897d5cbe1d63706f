import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import type { Report } from "../../src/doctor/types.ts";
import { cgroupMount } from "../../src/identity/cgroup-tree.ts";
import { mustExec } from "../support/node.ts";
import { eventually, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import { withoutNetlink } from "../support/without-netlink.ts";

const ROOT = { user: "root" };
const ALICE = { user: "alice" };
const DOCTOR = ["/run/bin/imdsproxy", "doctor"] as const;
/** What a user would have a terminal do. */
const ESCAPE = "\u001b]0;pwned\u0007";

/** Takes every look at it and answers none: root's FUSE file system here, a dead server elsewhere. Says when it is there. */
const SILENT_MOUNT = `
import ctypes, os, sys, time
fuse = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={fuse},rootmode=40755,user_id=0,group_id=0,allow_other"
if libc.mount(b"silent", sys.argv[1].encode(), b"fuse", 0, options.encode()) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
time.sleep(3600)
`;
/** A program with a secret among its arguments, whose name would set a terminal's title. */
const TELLTALE = `
import ctypes, sys, time
ctypes.CDLL(None).prctl(15, ${JSON.stringify(ESCAPE)}.encode(), 0, 0, 0)
print("named", flush=True)
time.sleep(3600)
`;
const LISTENER = `
import os, socket, time
docker = socket.socket(socket.AF_UNIX)
docker.bind("/run/docker.sock")
os.chmod("/run/docker.sock", 0o666)
listener = socket.create_server(("127.0.0.1", 51679))
print("listens", flush=True)
time.sleep(3600)
`;

/** Listens at an address of the node's. */
const LISTEN = `
import socket, sys, time
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listens", flush=True)
time.sleep(3600)
`;
/** IAM, as far as SimulatePrincipalPolicy: ssm:SendCommand is allowed. */
const SIMULATES = `
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = b"<member><EvalActionName>ssm:SendCommand</EvalActionName><EvalDecision>allowed</EvalDecision></member>"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = http.server.HTTPServer(("127.0.0.1", 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/run/iam/cert.pem", "/run/iam/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
print("listens", flush=True)
server.serve_forever()
`;
/** linux/netlink.h */
const NETLINK_NETFILTER = 12;
/** A container's cgroup of this run's own, in the machine's tree. */
const CONTAINER = `/system.slice/docker-${process.pid.toString(16).padStart(64, "0")}.scope`;

describeAsRoot("doctor on a node", () => {
  let proxied: ProxiedNode;
  const path = (nodePath: string) => proxied.node.path(nodePath);
  const doctor = (...flags: string[]) => proxied.node.exec({ ...ROOT, argv: [...DOCTOR, ...flags] });
  /** Its report, and how it ended. */
  async function report(...flags: string[]): Promise<{ report: Report; exitCode: number; stdout: string }> {
    const { stdout, stderr, exitCode } = await doctor("--json", ...flags);
    if (stderr !== "") throw new Error(stderr);
    return { report: JSON.parse(stdout) as Report, exitCode, stdout };
  }
  /** Starts a program that says a word when it has done its part. */
  async function running(who: { user: string }, source: string, ...args: string[]): Promise<void> {
    const program = proxied.node.spawn({
      ...who,
      argv: ["/usr/bin/python3", "-c", source, ...args],
      timeoutMs: 0,
    });
    let ended: unknown = null;
    void program.done.then((result) => {
      ended = result;
    });
    await eventually("the program is ready", () => {
      if (ended !== null) throw new Error(JSON.stringify(ended));
      return program.stdout().includes("\n");
    });
  }

  beforeAll(async () => {
    proxied = await startProxiedNode({
      users: [
        { name: "alice", uid: 2001 },
        { name: "bob", uid: 2002 },
        { name: "carol", uid: 2003 },
        { name: "dave", uid: 2004 },
        { name: "admin", uid: 2005, groups: ["docker"] },
      ],
    });
    // IAM is not to be had here; at an address of the node's own that is known at once.
    appendFileSync(path("/etc/hosts"), "127.0.0.1 iam.amazonaws.com\n");
    // The machine's own members of such groups are none of this node's.
    const groups = readFileSync(path("/etc/group"), "utf8");
    writeFileSync(path("/etc/group"), groups.replaceAll(/^(?!docker:)(\S+:\S*:\d+):.*$/gm, "$1:"));
  });
  afterAll(() => proxied?.node.stop());

  test("finds nothing on a clean one, names what it could not look at, and ends with 0", async () => {
    let found = await report("--admin", "admin");
    // On a busy machine an answer may come too late for it.
    for (let tries = 1; found.report.findings.length > 1 && tries < 3; tries++)
      found = await report("--admin", "admin");
    // A package of the tests, whose forwarding runs as root: it is right to name it.
    const tests = existsSync("/usr/sbin/dropbear") ? ["login-programs"] : [];
    expect(found.report.findings.map(({ id, what }) => (tests.includes(id) ? id : `${id}: ${what}`))).toEqual(
      tests,
    );
    expect([found.report.open, found.exitCode]).toEqual([false, 0]);
    expect(found.report.as).toEqual({ name: "nobody", uid: 65534 });
    const unchecked = new Set(found.report.unchecked.map(({ id }) => id));
    expect([...unchecked].sort()).toEqual(["role-escalation", "socket-units", "unit-environment"]);
  });

  test("is called as root, and as a user who is there and is not exempt", async () => {
    const wrong: [who: { user: string }, flags: string[], says: string][] = [
      [ALICE, [], "not running as root"],
      [ROOT, ["--as", "nobodyatall"], "no account nobodyatall"],
      [ROOT, ["--as", "root"], "--as USER"],
    ];
    for (const [who, flags, says] of wrong) {
      const { exitCode, stderr, stdout } = await proxied.node.exec({ ...who, argv: [...DOCTOR, ...flags] });
      expect([flags, exitCode, stdout]).toEqual([flags, 2, ""]);
      expect(stderr).toContain(says);
    }
  });

  test("finds each weakness that is planted, under its id, follows no link, and waits for no dead mount", async () => {
    const home = (user: string, file: string, text: string, mode: number, directory = "") => {
      const at = path(`/run/home/${user}`);
      chmodSync(at, 0o755);
      if (directory !== "") mkdirSync(`${at}/${directory}`, { recursive: true });
      writeFileSync(`${at}/${file}`, text);
      chmodSync(`${at}/${file}`, mode);
    };
    const KEY = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYab";
    home("bob", ".aws/credentials", `aws_secret_access_key=${KEY}\n`, 0o644, ".aws");
    home("alice", ".aws/config", `[default]\naws_secret_access_key = ${KEY}\n`, 0o644, ".aws");
    // Settings without a secret, a file that is closed, a link to what only root may read, and a pipe that nobody writes to.
    home("dave", ".aws/config", "[default]\nregion = us-west-2\n", 0o644, ".aws");
    home("dave", ".s3cfg", KEY, 0o600);
    symlinkSync("/etc/shadow", path("/run/home/bob/.boto"));
    await mustExec(proxied.node, ROOT, ["mkfifo", "-m", "644", "/run/home/bob/.passwd-s3fs"]);
    for (const user of ["alice", "bob", "dave"]) {
      const uid = { alice: 2001, bob: 2002, dave: 2004 }[user] ?? 0;
      await mustExec(proxied.node, ROOT, ["chown", "-hR", `${uid}:${uid}`, `/run/home/${user}`]);
    }
    await running(ROOT, SILENT_MOUNT, "/run/home/carol");
    await running(ALICE, TELLTALE, `AWS_SECRET_ACCESS_KEY=${KEY}`);
    await running(ROOT, LISTENER);
    proxied.node.write("/run/agent/keys", "keys");
    proxied.node.write("/etc/environment", `AWS_SECRET_ACCESS_KEY=${KEY}\n`);
    const agent = proxied.node.spawn({
      ...ROOT,
      argv: ["sleep", "3600"],
      env: { AWS_SHARED_CREDENTIALS_FILE: "/run/agent/keys" },
      timeoutMs: 0,
    });
    void agent.done;
    const groups = readFileSync(path("/etc/group"), "utf8");
    const lines = groups
      .replace(/^sudo:.*$/m, "sudo:x:27:bob")
      .replace(/^adm:.*$/m, "adm:x:4:dave")
      .split("\n")
      .filter((line) => !line.startsWith("wireshark:"));
    writeFileSync(path("/etc/group"), `${lines.join("\n")}wireshark:x:46999:alice\n`);
    appendFileSync(path("/etc/passwd"), "old:x:777:777::/nonexistent:/bin/sh\n");
    appendFileSync(path("/etc/shadow"), "old:$6$salt$hash:1::::::\n");
    mkdirSync(path("/etc/sudoers.d"), { recursive: true });
    writeFileSync(path("/etc/sudoers.d/alice"), "alice ALL=(root) NOPASSWD: /usr/bin/apt-get\n", {
      mode: 0o440,
    });
    chownSync(path("/etc/sudoers.d/alice"), 0, 0);
    chmodSync(path("/etc/imdsproxy/config.yaml"), 0o666);
    for (const script of [
      "ip link add br7 type bridge",
      "ip link add port7 type veth peer name other7",
      "ip link set port7 master br7",
      "sysctl -qw net.ipv4.ip_unprivileged_port_start=80",
      "imdsproxy iptables unblock-direct",
      "iptables -t nat -I OUTPUT -d 169.254.169.254/32 -p tcp -m tcp --dport 8080 -j ACCEPT",
    ])
      await mustExec(proxied.node, ROOT, ["sh", "-c", script]);

    const found = await report("--admin", "admin", "--network-homes");
    const what = (id: string) => found.report.findings.filter((one) => one.id === id).map((one) => one.what);
    expect([found.report.open, found.exitCode]).toEqual([true, 1]);
    expect(what("direct-access").join("\n")).toMatch(/^169\.254\.0\.2:9081: /m);
    expect(what("firewall-rules").join("\n")).toContain("IMDSPROXY");
    expect(what("chains-above").join("\n")).toContain("--dport 8080 -j ACCEPT");
    expect(what("bridged-containers")).toEqual(["the bridge br7 has 1 interface, with containers: leave"]);
    expect(what("root-groups")).toEqual([expect.stringContaining("bob is in the group sudo")]);
    expect(what("log-readers")).toEqual([expect.stringContaining("dave is in the group adm")]);
    expect(what("packet-capture")).toContainEqual(
      "alice is in the group wireshark, which may capture packets",
    );
    expect(what("sudoers")).toEqual(["sudo lets alice run some commands as root without a password"]);
    expect(what("own-files")).toEqual(["/etc/imdsproxy/config.yaml can be written by others (mode 666)"]);
    expect(what("home-credentials").sort()).toEqual([
      expect.stringContaining("/run/home/alice/.aws/config of alice"),
      expect.stringContaining("/run/home/bob/.aws/credentials of bob"),
    ]);
    expect(what("system-files").sort()).toEqual([
      expect.stringContaining("/etc/environment"),
      expect.stringContaining("/run/agent/keys"),
      expect.stringContaining("/run/docker.sock"),
    ]);
    expect(what("process-arguments")).toEqual([
      expect.stringMatching(/^the arguments of process \d+ \(.\]0;pwned., uid 2001\) hold an AWS secret$/s),
    ]);
    expect(what("process-arguments").join()).toContain(ESCAPE);
    expect(what("people-below-1000")).toEqual([expect.stringContaining("old (uid 777)")]);
    expect(what("unprivileged-ports")).toEqual([expect.stringContaining("may bind port 254")]);
    expect(what("ecs-endpoint")).toEqual([expect.stringContaining("127.0.0.1:51679")]);

    const gaps = found.report.unchecked.filter(({ id }) => id === "home-credentials").map(({ why }) => why);
    expect(gaps.sort()).toEqual([
      "/run/home/bob/.boto of bob is a link, which is not followed",
      "the home /run/home/carol of carol does not answer within 3 s",
    ]);
    // No secret is told, and nothing that alice named reaches the terminal as she wrote it.
    expect(found.stdout).not.toContain(KEY);
    expect(found.stdout).not.toContain("\u001b");
  }, 180_000);

  test("leaves network file systems out, names the role that STS refuses, and prints text that does nothing to a terminal", async () => {
    // Nobody has asked for alice's session yet.
    await proxied.node.sts.set({ fault: { kind: "error", status: 403, code: "AccessDenied" } });
    const { stdout, exitCode } = await doctor("--as", "alice", "--admin", "admin,bob");
    expect(exitCode).toBe(1);
    expect(stdout).toStartWith("as alice (uid 2001): OPEN: ");
    expect(stdout.replaceAll(/\s+/g, " ")).toContain("/run/home/carol of carol is on fuse: --network-homes");
    expect(/[^\P{C}\n]/u.test(stdout)).toBe(false);
    expect(stdout).toMatch(/^WARNING {2}role-trust: .*ImdsProxyTestRole/m);
    expect(stdout).toContain('"Action": "sts:AssumeRole"');
    expect(stdout).toMatch(/^WARNING {2}user-role: /m);
    expect(stdout).not.toContain("bob is in the group sudo");
    // What alice has of her own is no finding for her.
    expect(stdout).not.toContain("/run/home/alice/.aws/config");
  }, 180_000);

  describe("finds under its id", () => {
    let found: Awaited<ReturnType<typeof report>>;
    /** What another doctor finds while the rules are away and the kernel says that it is an old one. */
    let open: typeof found;
    /** What a third finds that may not use nf_tables, and has no configuration that can be read. */
    let bare: typeof found;
    const root = (...argv: string[]) => mustExec(proxied.node, ROOT, argv);
    /** A process in a container's cgroup, with files of its own and the node's network, until the node ends. */
    async function containerOf(uid: number): Promise<void> {
      const place = `${cgroupMount()}${CONTAINER}`;
      const script =
        `mkdir -p ${place}; echo $$ >${place}/cgroup.procs; exec unshare --mount ` +
        `setpriv --reuid=${uid} --regid=${uid} --clear-groups sh -c 'echo sleeps; exec sleep 3600'`;
      const one = proxied.node.spawn({ ...ROOT, argv: ["sh", "-euc", script], timeoutMs: 0 });
      void one.done;
      await eventually("the container runs", () => one.stdout().includes("sleeps"));
    }
    async function other(argv: readonly string[], env = {}): Promise<typeof found> {
      const { stdout, exitCode, stderr } = await proxied.node.exec({ ...ROOT, argv: [...argv], env });
      if (stdout === "") throw new Error(stderr);
      return { report: JSON.parse(stdout) as Report, exitCode, stdout };
    }

    beforeAll(async () => {
      const { node } = proxied;
      await node.sts.set({ fault: { kind: "none" }, clockOffsetMs: -90_000 });
      const groups = readFileSync(path("/etc/group"), "utf8");
      const members = { docker: "bob", wheel: "carol", disk: "dave", lxd: "bob", "incus-admin": "carol" };
      const without = groups
        .split("\n")
        .filter((line) => !(((line.split(":")[0] ?? "") as string) in members));
      const lines = Object.entries(members).map(([group, user], at) => `${group}:x:${46_900 + at}:${user}`);
      writeFileSync(path("/etc/group"), [...without.filter((line) => line !== ""), ...lines, ""].join("\n"));
      // Beside the rules that are: a rule that asks for jobs, of a Slurm that makes no cgroups for them.
      const config = JSON.parse(readFileSync(path("/etc/imdsproxy/config.yaml"), "utf8"));
      const jobs = { name: "jobs", match: { slurmJob: true }, role: config.role };
      node.write("/etc/imdsproxy/config.yaml", JSON.stringify({ ...config, rules: [jobs] }));
      node.write("/etc/slurm/slurm.conf", "ProctrackType=proctrack/linuxproc\n");
      node.write(
        "/run/open.yaml",
        JSON.stringify({ ...config, upstream: "http://169.254.169.254:80", containers: "leave" }),
      );
      node.write("/run/broken.yaml", "rules: [{ nome: x }]\n");
      node.write("/run/systemd/io.systemd.InstanceMetadata", "");
      mkdirSync(path("/run/iam"), { recursive: true });
      const legacy =
        "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081";
      for (const script of [
        "mount -t tmpfs none /usr/local/sbin && touch /usr/local/sbin/dropbear",
        "ip addr add 169.254.170.23/32 dev lo",
        `iptables-legacy -t nat -A OUTPUT ${legacy}`,
        "rm -f /etc/alternatives/ip6tables-save",
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=iam.amazonaws.com " +
          "-addext subjectAltName=DNS:iam.amazonaws.com -keyout /run/iam/key.pem -out /run/iam/cert.pem 2>/dev/null",
      ])
        await root("sh", "-euc", script);
      await running(ROOT, LISTEN, "169.254.170.23", "80");
      await running(ROOT, SIMULATES);
      await containerOf(65_532);
      found = await other([...DOCTOR, "--json", "--admin", "admin"], {
        NODE_EXTRA_CA_CERTS: "/run/iam/cert.pem",
      });
      await root("imdsproxy", "iptables", "remove");
      open = await other(["setarch", "--uname-2.6", ...DOCTOR, "--json", "--config", "/run/open.yaml"]);
      const broken = [...DOCTOR, "--json", "--config", "/run/broken.yaml"] as const;
      bare = await other(withoutNetlink(NETLINK_NETFILTER, broken));
    }, 180_000);
    afterAll(() => {
      const place = `${cgroupMount()}${CONTAINER}`;
      // A killed process stays in its cgroup for a moment.
      const remove =
        'xargs -r kill -9 <"$1/cgroup.procs"; for try in $(seq 400); do rmdir "$1" && break; sleep 0.1; done';
      if (existsSync(place)) Bun.spawnSync(["sh", "-c", remove, "sh", place]);
    });

    const what = ({ report }: typeof found, id: string) =>
      report.findings.filter((one) => one.id === id).map((one) => one.what);
    const planted: readonly [name: string, in_: () => typeof found, id: string, words: RegExp][] = [
      ["a member of docker", () => found, "root-groups", /bob is in the group docker/],
      ["a member of wheel", () => found, "root-groups", /carol is in the group wheel/],
      ["a member of disk", () => found, "root-groups", /dave is in the group disk/],
      ["a member of lxd", () => found, "root-groups", /bob is in the group lxd/],
      ["a member of incus-admin", () => found, "root-groups", /carol is in the group incus-admin/],
      ["EKS's endpoint", () => found, "eks-endpoint", /169\.254\.170\.23:80/],
      ["a configuration that is not what runs", () => found, "proxy-health", /^configuration: /],
      [
        "a clock that is wrong",
        () => found,
        "clock",
        /the node's clock is \d\d s (?:ahead of|behind) STS's$/,
      ],
      ["rules in the other backend", () => found, "iptables-backends", /legacy/],
      ["a container in the node's network", () => found, "host-network", /uid 65532 .*docker-0+/],
      ["systemd-imdsd", () => found, "systemd-imdsd", /io\.systemd\.InstanceMetadata is there/],
      ["Dropbear", () => found, "login-programs", /Dropbear/],
      ["IPv6 without ip6tables", () => found, "ipv6", /IPv6 is not guarded/],
      ["a Slurm without cgroups of its jobs", () => found, "cgroups", /ProctrackType=proctrack\/linuxproc/],
      ["a role of users that may become root", () => found, "role-escalation", /may do ssm:SendCommand/],
      ["the instance role in a user's hands", () => open, "instance-role", /nobody/],
      ["a kernel too old for the second wall", () => open, "second-wall", /linux 2\.6/],
      ["answers that reach containers", () => open, "hop-limit", /\d+ hops/],
      ["a configuration that cannot be read", () => bare, "configuration", /broken\.yaml.*nome/],
      ["a kernel that tells of no connections", () => bare, "kernel-features", /connection tracking/],
    ];
    for (const [name, in_, id, words] of planted) {
      test(`${id}: ${name}`, () => {
        if (id === "ipv6" && !proxied.node.ipv6) return;
        expect(what(in_(), id)).toContainEqual(expect.stringMatching(words));
      });
    }

    test("each check has been planted for: here, in the tests above, or on a booted node", () => {
      const above = [
        ...readFileSync(import.meta.path, "utf8").matchAll(/what\("([\w-]+)"\)|WARNING \{2\}([\w-]+): /g),
      ];
      const ids = new Set([
        ...planted.map(([, , id]) => id),
        ...above.flatMap(([, one, two]) => one ?? two ?? []),
        // test/boot/units.test.ts, with units of a real systemd.
        ...["process-environment", "socket-units", "unit-environment"],
      ]);
      expect(found.report.checks.filter((id) => !ids.has(id))).toEqual([]);
    });
  });
});
