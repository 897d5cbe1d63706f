import { configSchema } from "../../src/config/schema.ts";
import { type DoctorInputs, type FirewallFacts, known, type ProcessFacts } from "../../src/doctor/types.ts";
import type { Probe } from "../../src/service/probe.ts";
import { judge } from "../../src/service/verify.ts";

/** What doctor finds on a node where nothing is wrong. */

export const ROLE = "arn:aws:iam::123456789012:role/Lesser";
export const config = (more: object = {}) => configSchema.parse({ role: ROLE, ...more });

export const ROOT: Probe = {
  token: 200,
  list: { status: 200, text: "Node" },
  credentials: { status: 200, code: "Success", digest: "aaaa" },
  forbidden: null,
  direct: [],
};
export const USER: Probe = {
  token: 200,
  list: { status: 200, text: "Lesser" },
  credentials: { status: 200, code: "Success", digest: "bbbb" },
  forbidden: 404,
  direct: [
    {
      endpoint: { address: "169.254.0.2", port: 9081 },
      result: "closed",
      detail: "169.254.0.2:9081: refused",
    },
  ],
};
/** What the user and root got, with what differs from a healthy node. */
export const reach = (user: Partial<Probe> = {}, root: Partial<Probe> = {}): DoctorInputs["reach"] => {
  const [theirs, roots] = [
    { ...USER, ...user },
    { ...ROOT, ...root },
  ];
  const tester = { name: "nobody", uid: 65534, gid: 65534, groups: [] };
  return known({ user: theirs, root: roots, judged: judge("Lesser", tester, theirs, roots) }, "requests");
};

export const FIREWALL: FirewallFacts = {
  deviations: [],
  wallProblems: [],
  limitProblems: [],
  withoutWall: null,
  limitNotes: [],
  unguarded: [],
  above: [],
  otherBackend: [],
  parallelCluster: null,
};
export const PROCESS: ProcessFacts = {
  pid: 100,
  uid: 2001,
  name: "sleep",
  cgroup: "/user.slice/user-2001.slice",
  hostNetworkContainer: false,
  secretInArguments: false,
  secretVariables: [],
  credentialFiles: [],
};
export const UNIT = {
  name: "app.service",
  user: "app",
  secretVariables: [],
  metadataVariables: [],
  environmentFiles: [],
  streams: [],
  triggers: "",
};

export const clean = (): DoctorInputs => ({
  as: { name: "nobody", uid: 65534 },
  admins: ["ubuntu"],
  exempt: known([0, 990], "the configuration"),
  config: known(config(), "/etc/imdsproxy/config.yaml"),
  reach: reach(),
  health: known([], "the proxy"),
  firewall: known(FIREWALL, "iptables-save"),
  port: known(
    { listen: { address: "127.0.0.1", port: 254 }, facts: { lustre: null, unprivilegedFrom: 1024 } },
    "sysctl",
  ),
  bridges: known([], "ip link"),
  bridgeUsers: known([], "/etc/lxc/lxc-usernet"),
  hopLimit: known(2, "the TTL"),
  kernel: known(
    {
      release: "6.1.0",
      socketLookup: null,
      connectionTracking: null,
      cgroups: "v2",
      needsCgroups: null,
      slurm: null,
    },
    "the kernel",
  ),
  accounts: known(
    [
      { name: "root", uid: 0, gid: 0, home: "/root", shell: "/bin/bash", locked: true },
      { name: "syslog", uid: 104, gid: 104, home: "/nonexistent", shell: "/usr/sbin/nologin", locked: true },
      { name: "imdsproxy", uid: 990, gid: 990, home: "/", shell: "/usr/sbin/nologin", locked: true },
      { name: "ubuntu", uid: 1000, gid: 1000, home: "/home/ubuntu", shell: "/bin/bash", locked: true },
      { name: "alice", uid: 2001, gid: 2001, home: "/home/alice", shell: "/bin/bash", locked: false },
    ],
    "/etc/passwd",
  ),
  // Root, who is exempt, the administrators that --admin names, and daemons are where they belong.
  groups: known(
    [
      { group: "sudo", members: ["root", "ubuntu"] },
      { group: "docker", members: ["imdsproxy"] },
      { group: "adm", members: ["syslog", "ubuntu"] },
    ],
    "getent group",
  ),
  sudo: known([{ user: "ubuntu", all: true, passwordless: true }], "sudo"),
  homeFiles: known([], "the homes"),
  systemFiles: known([], "files of the system"),
  processes: known(
    [PROCESS, { ...PROCESS, pid: 1, uid: 0, secretVariables: ["AWS_SESSION_TOKEN"] }],
    "/proc",
  ),
  units: known(
    [UNIT, { ...UNIT, name: "ssh.socket", user: "", streams: ["[::]:22"], triggers: "ssh.service" }],
    "systemctl",
  ),
  ownFiles: known([], "ls"),
  loginPrograms: known([], "places"),
  captures: known([], "getcap"),
  imdsd: known([], "systemctl"),
  containerEndpoints: known([], "connections"),
  clock: known(900, "the Date"),
  simulations: known([{ roleArn: ROLE, allowed: [] }], "iam:SimulatePrincipalPolicy"),
});
