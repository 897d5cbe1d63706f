import { describe, expect, test } from "bun:test";
import { build } from "../../src/doctor/build.ts";
import { CHECKS } from "../../src/doctor/checks.ts";
import { type DoctorInputs, type Known, known, type Level, unknown } from "../../src/doctor/types.ts";
import { clean, config, FIREWALL, PROCESS, ROLE, reach, UNIT } from "./support.ts";

const firewall = (more: Partial<typeof FIREWALL>) => known({ ...FIREWALL, ...more }, "iptables-save");
const value = <T>(input: Known<T>): T => {
  if (input.kind === "unknown") throw new Error(input.why);
  return input.value;
};
const file = (path: string, use: "read" | "write" = "read") => ({ path, of: null, use, what: "keys" });
const kernel = (more: object) => known({ ...value(clean().kernel), ...more }, "the kernel");
const problem = (id: string, lasting: boolean) => ({
  id,
  what: `something of ${id}`,
  since: "now",
  remedy: "do this",
  lasting,
});
const grant = (all: boolean, passwordless: boolean) => known([{ user: "alice", all, passwordless }], "sudo");
const member = (group: string) => known([{ group, members: ["alice"] }], "getent group");
const bridge = (ports: number) => known([{ name: "docker0", ports }], "ip link");

/** What is planted, the id under which it must be found, and the words that name it. */
const PLANTED: readonly [id: string, level: Level, words: string, planted: Partial<DoctorInputs>][] = [
  [
    "direct-access",
    "open",
    "169.254.0.2:9081: answers",
    {
      reach: reach({
        direct: [
          {
            endpoint: { address: "169.254.0.2", port: 9081 },
            result: "open",
            detail: "169.254.0.2:9081: answers",
          },
        ],
      }),
    },
  ],
  ["instance-role", "open", "cannot get Node by its name", { reach: reach({ forbidden: 200 }) }],
  [
    "instance-role",
    "open",
    "does not get the instance role's credentials",
    { reach: reach({ credentials: { status: 200, code: "Success", digest: "aaaa" } }) },
  ],
  ["user-role", "warning", "nobody gets Lesser", { reach: reach({ list: { status: 404, text: "" } }) }],
  [
    "user-role",
    "warning",
    "root keeps the instance role",
    { reach: reach({}, { credentials: { status: 503, code: null, digest: null } }) },
  ],
  ["bridged-containers", "open", "docker0 has 2 interfaces", { bridges: bridge(2), hopLimit: known(1, "") }],
  [
    "bridged-containers",
    "warning",
    "docker0 has 0 interfaces",
    { bridges: bridge(0), hopLimit: known(1, "") },
  ],
  ["bridged-containers", "open", "alice may attach", { bridgeUsers: known(["alice"], "lxc-usernet") }],
  [
    "host-network",
    "warning",
    "uid 65532",
    {
      processes: known(
        [
          { ...PROCESS, uid: 65532, hostNetworkContainer: true },
          { ...PROCESS, pid: 101, uid: 65532, hostNetworkContainer: true },
        ],
        "/proc",
      ),
    },
  ],
  ["ipv6", "open", "IPv6 is not guarded", { firewall: firewall({ unguarded: ["IPv6 is not guarded"] }) }],
  ...["docker", "lxd", "sudo", "wheel", "disk", "shadow", "libvirt"].map(
    (group): (typeof PLANTED)[number] => [
      "root-groups",
      "open",
      `alice is in the group ${group}`,
      { groups: member(group) },
    ],
  ),
  ["sudoers", "open", "every command as root without a password", { sudo: grant(true, true) }],
  ["sudoers", "open", "every command as root", { sudo: grant(true, false) }],
  ["sudoers", "warning", "some commands as root without", { sudo: grant(false, true) }],
  ["packet-capture", "open", "alice is in the group wireshark", { groups: member("wireshark") }],
  [
    "packet-capture",
    "open",
    "/usr/bin/tcpdump",
    { captures: known(["every user may run /usr/bin/tcpdump"], "getcap") },
  ],
  [
    "socket-units",
    "warning",
    "web.socket listens at [::]:80",
    {
      units: known(
        [
          { ...UNIT, name: "web.service", user: "www-data" },
          { ...UNIT, name: "web.socket", user: "", streams: ["[::]:80"], triggers: "web.service" },
        ],
        "systemctl",
      ),
    },
  ],
  [
    "own-files",
    "open",
    "config.yaml",
    { ownFiles: known(["/etc/imdsproxy/config.yaml can be written"], "ls") },
  ],
  [
    "system-files",
    "open",
    "/run/docker.sock can be written",
    { systemFiles: known([file("/run/docker.sock", "write")], "files") },
  ],
  [
    "home-credentials",
    "open",
    ".aws/credentials of bob can be read",
    { homeFiles: known([{ ...file("/home/bob/.aws/credentials"), of: "bob" }], "homes") },
  ],
  [
    "process-arguments",
    "open",
    "process 100 (sleep, uid 2001)",
    { processes: known([{ ...PROCESS, secretInArguments: true }], "/proc") },
  ],
  [
    "process-environment",
    "warning",
    "AWS_SECRET_ACCESS_KEY",
    { processes: known([{ ...PROCESS, secretVariables: ["AWS_SECRET_ACCESS_KEY"] }], "/proc") },
  ],
  [
    "unit-environment",
    "open",
    "app.service has AWS_SECRET_ACCESS_KEY",
    { units: known([{ ...UNIT, secretVariables: ["AWS_SECRET_ACCESS_KEY"] }], "systemctl") },
  ],
  [
    "unit-environment",
    "warning",
    "AWS_EC2_METADATA_DISABLED",
    { units: known([{ ...UNIT, metadataVariables: ["AWS_EC2_METADATA_DISABLED"] }], "systemctl") },
  ],
  ["log-readers", "warning", "alice is in the group adm", { groups: member("adm") }],
  [
    "people-below-1000",
    "warning",
    "old (uid 500)",
    {
      accounts: known(
        [
          ...value(clean().accounts),
          { name: "old", uid: 500, gid: 500, home: "/home/old", shell: "/bin/sh", locked: false },
        ],
        "/etc/passwd",
      ),
    },
  ],
  ["login-programs", "warning", "Dropbear", { loginPrograms: known(["Dropbear is installed"], "places") }],
  [
    "systemd-imdsd",
    "warning",
    "is active",
    { imdsd: known(["systemd-imdsd.service is active"], "systemctl") },
  ],
  [
    "ecs-endpoint",
    "warning",
    "169.254.170.2:80",
    { containerEndpoints: known(["169.254.170.2:80"], "connections") },
  ],
  [
    "eks-endpoint",
    "warning",
    "169.254.170.23:80",
    { containerEndpoints: known(["169.254.170.23:80"], "connections") },
  ],
  [
    "role-escalation",
    "open",
    "ssm:SendCommand",
    { simulations: known([{ roleArn: ROLE, allowed: ["ssm:SendCommand"] }], "IAM") },
  ],
  ["role-trust", "warning", "something of sts", { health: known([problem("sts", true)], "the proxy") }],
  ["proxy-health", "warning", "something of sts", { health: known([problem("sts", false)], "the proxy") }],
  [
    "proxy-health",
    "warning",
    "something of upstream",
    { health: known([problem("upstream", true)], "the proxy") },
  ],
  [
    "firewall-rules",
    "warning",
    "the chain IMDSPROXY is missing",
    { firewall: firewall({ deviations: ["IPv4 nat: the chain IMDSPROXY is missing"] }) },
  ],
  [
    "firewall-rules",
    "warning",
    "second wall: a rule",
    { firewall: firewall({ wallProblems: ["a rule is missing"] }) },
  ],
  [
    "firewall-rules",
    "warning",
    "limits of connections: the table",
    { firewall: firewall({ limitProblems: ["the table is missing"] }) },
  ],
  [
    "second-wall",
    "warning",
    "no second wall",
    { firewall: firewall({ withoutWall: "no second wall: linux 4.9" }) },
  ],
  [
    "iptables-backends",
    "warning",
    "legacy beside nft",
    { firewall: firewall({ otherBackend: ["the other iptables (legacy beside nft) …"] }) },
  ],
  ["chains-above", "warning", "-j DOCKER", { firewall: firewall({ above: ["IPv4 nat OUTPUT: -j DOCKER"] }) }],
  [
    "chains-above",
    "warning",
    "PARALLELCLUSTER_IMDS",
    { firewall: firewall({ parallelCluster: "the chain PARALLELCLUSTER_IMDS refuses" }) },
  ],
  [
    "unprivileged-ports",
    "warning",
    "may bind port 254",
    { port: known({ ...value(clean().port), facts: { lustre: null, unprivilegedFrom: 0 } }, "sysctl") },
  ],
  [
    "unprivileged-ports",
    "warning",
    "ports from 443 on",
    { port: known({ ...value(clean().port), facts: { lustre: null, unprivilegedFrom: 443 } }, "sysctl") },
  ],
  [
    "kernel-features",
    "warning",
    "cannot say who owns a socket",
    { kernel: kernel({ socketLookup: "errno 2" }) },
  ],
  [
    "kernel-features",
    "warning",
    "connection tracking",
    { kernel: kernel({ connectionTracking: "errno 2" }) },
  ],
  [
    "kernel-features",
    "warning",
    "nf_tables",
    { firewall: firewall({ limitNotes: ["the kernel has no nf_tables"] }) },
  ],
  [
    "cgroups",
    "warning",
    "cgroup v1 alone",
    { kernel: kernel({ cgroups: "v1", needsCgroups: "the rule jobs matches by cgroup" }) },
  ],
  [
    "cgroups",
    "warning",
    "ProctrackType",
    { kernel: kernel({ slurm: "slurm.conf has ProctrackType=linuxproc" }) },
  ],
  [
    "clock",
    "warning",
    "400 s ahead of STS's, so that requests are refused",
    { clock: known(400_000, "the Date") },
  ],
  ["clock", "warning", "60 s behind STS's", { clock: known(-60_000, "the Date") }],
  [
    "configuration",
    "warning",
    "line 3",
    { config: unknown("unknown key in line 3", "/etc/imdsproxy/config.yaml") },
  ],
];

test("a clean node has no finding, and everything was looked at", () => {
  const report = build(clean());
  expect(report.findings).toEqual([]);
  expect(report.unchecked).toEqual([]);
  expect(report.open).toBe(false);
  expect(report.checks).toEqual(CHECKS.map(({ id }) => id));
});

describe("what is planted is found under its id, and under no other:", () => {
  for (const [id, level, words, planted] of PLANTED) {
    test(`${id}: ${words}`, () => {
      const { findings, open } = build({ ...clean(), ...planted });
      expect(findings.map((found) => [found.id, found.level])).toEqual([[id, level]]);
      expect(findings[0]?.what).toContain(words);
      expect(open).toBe(level === "open");
      for (const text of [findings[0]?.why, findings[0]?.remedy, findings[0]?.command, findings[0]?.source])
        expect(text).toMatch(/\S/);
    });
  }

  test("hop-limit: beside the bridge that makes it matter", () => {
    const { findings } = build({ ...clean(), bridges: bridge(1), hopLimit: known(2, "the TTL") });
    expect(findings.map(({ id }) => id)).toEqual(["bridged-containers", "hop-limit"]);
    expect(
      build({ ...clean(), bridges: bridge(1), config: known(config({ containers: "reject" }), "") }).findings,
    ).toEqual([]);
  });

  test("each check has something planted", () => {
    expect(new Set([...PLANTED.map(([id]) => id), "hop-limit"])).toEqual(new Set(CHECKS.map(({ id }) => id)));
  });
});

describe("what could not be looked at", () => {
  const inputs = Object.keys(clean()).filter((name) => !["as", "admins"].includes(name));
  for (const name of inputs) {
    test(`${name}: is said, and is no finding of something that lets a user through`, () => {
      const report = build({
        ...clean(),
        bridges: bridge(0),
        [name]: unknown("it does not answer", "a look"),
      });
      // Who is exempt, and what the accounts are, only take away from what is found: without them more is found.
      if (["exempt", "accounts"].includes(name)) return;
      expect(report.open).toBe(false);
      if (name === "config") return;
      expect(report.unchecked.some(({ why }) => why.includes("it does not answer"))).toBe(true);
    });
  }

  test("a part of a look that failed is said beside what was found", () => {
    const { findings, unchecked } = build({
      ...clean(),
      homeFiles: known([{ ...file("/home/bob/.boto"), of: "bob" }], "homes", [
        "/home/eve does not answer within 3 s",
      ]),
    });
    expect(findings.map(({ id }) => id)).toEqual(["home-credentials"]);
    expect(unchecked).toEqual([{ id: "home-credentials", why: "/home/eve does not answer within 3 s" }]);
  });
});

test("ids are stable words, each once, and each check is described", () => {
  const ids = CHECKS.map(({ id }) => id);
  expect(new Set(ids).size).toBe(ids.length);
  for (const { id, title, why, remedy, command, explain } of CHECKS) {
    expect(id).toMatch(/^[a-z0-9]+(-[a-z0-9]+)*$/);
    for (const text of [title, why, remedy, command, ...explain]) expect(text).toMatch(/\S/);
    expect([id, explain.length > 0]).toEqual([id, true]);
  }
});
