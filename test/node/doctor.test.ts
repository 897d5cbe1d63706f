import { afterAll, beforeAll, expect, test } from "bun:test";
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
import { mustExec } from "../support/node.ts";
import { eventually, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

const ROOT = { user: "root" };
const ALICE = { user: "alice" };
const DOCTOR = ["/run/bin/imdsproxy", "doctor"];
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
});
