import { CLOSED_TABLE, closedRules } from "../firewall/closed-state.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import { HEAP_GROWTH, NO_LATER_THREADS } from "../platform/engine-options.ts";
import { STATUS_DIRECTORY } from "../telemetry/status-document.ts";
import {
  ACCOUNT,
  BINARY,
  CONFIG,
  IP,
  MIGRATE_BEFORE,
  OBJECT_UNITS,
  ROOT_STATE_DIRECTORY,
  UNITS,
  WANTED_BY,
} from "./paths.ts";

/**
 * The text of the systemd units. Pure. For the directives see systemd.unit(5), systemd.service(5), systemd.exec(5) and
 * systemd.special(7). Each unit names the hardening directives that it does not use, with the reason.
 */

/** The facts on which the units depend. */
export interface UnitFacts {
  /** The number in `systemctl --version`. systemd warns at every start of a directive that it does not know. */
  readonly systemdVersion: number;
  /** The configuration's `stateDirectory`: a path below /var/lib. */
  readonly stateDirectory: string;
  /** The configuration's `upstream`. Default `auto`. */
  readonly upstream?: Endpoint | "auto";
  /** Whether the rules depend on locked passwords. On Amazon Linux and Red Hat, reading /etc/shadow needs a capability. Default false. */
  readonly readsShadow?: boolean;
  /** Default {@link BINARY}. */
  readonly binary?: string;
  /** Default {@link CONFIG}. */
  readonly config?: string;
  /** For the second proxy: the copy of the fleet's object; default the node's. */
  readonly object?: string | undefined;
}

/** A directive, and the first version of systemd that knows it. */
type Line = string | { readonly since: number; readonly line: string };

const render = (lines: readonly Line[], version: number): string =>
  `${lines
    .filter((line) => typeof line === "string" || version >= line.since)
    .map((line) => (typeof line === "string" ? line : line.line))
    .join("\n")}\n`;

/**
 * The services that let users log in, or that run jobs of users, such as cron. None of them starts before the firewall was
 * found right. systemd ignores names that a node does not have. The list has services, not their sockets: sockets start
 * before basic.target and our units after it, so an order of sockets after our units would be a cycle.
 */
const USERS_COME_IN = [
  "systemd-user-sessions.service",
  "systemd-logind.service",
  "ssh.service",
  "sshd.service",
  "slurmd.service",
  "sssd.service",
  "cron.service",
  "crond.service",
  "atd.service",
  "docker.service",
  "containerd.service",
].join(" ");

/**
 * Firewall services that load their own rules and may drop ours while they do. The first two start as early as our rules'
 * unit. The others start after sysinit.target, so only the repair unit can wait for them.
 */
const EARLY_FIREWALLS = "netfilter-persistent.service nftables.service";
const FIREWALLS = `${EARLY_FIREWALLS} iptables.service ip6tables.service ufw.service firewalld.service`;

const HIDDEN_PROCESSES = "ProtectProc=invisible";

/** The hardening directives with which the proxy and the firewall's units still work, tried with Bun 1.4. */
const sandbox: readonly Line[] = [
  "NoNewPrivileges=yes",
  "ProtectSystem=strict",
  "ProtectHome=yes",
  "InaccessiblePaths=-/tmp -/var/tmp",
  "DevicePolicy=closed",
  { since: 245, line: "ProtectClock=yes" },
  "ProtectHostname=yes",
  { since: 244, line: "ProtectKernelLogs=yes" },
  "ProtectKernelTunables=yes",
  "ProtectControlGroups=yes",
  "ProtectKernelModules=yes",
  { since: 247, line: HIDDEN_PROCESSES },
  "RestrictNamespaces=yes",
  "RestrictRealtime=yes",
  "RestrictSUIDSGID=yes",
  "LockPersonality=yes",
  "KeyringMode=private",
  "SystemCallArchitectures=native",
  "SystemCallFilter=@system-service",
  "SystemCallFilter=~@privileged @resources",
  "SystemCallErrorNumber=EPERM",
  "LimitCORE=0",
  "# What runs stays in memory, so that a slow disk and a full memory do not make it wait for its own instructions.",
  "LimitMEMLOCK=infinity",
  "MemorySwapMax=0",
];

const LEFT_OUT: readonly Line[] = [
  "# Left out, each for a reason:",
  "#   MemoryDenyWriteExecute=  Bun compiles JavaScript and its FFI calls at run time, into memory that is written and run",
  "#   PrivateTmp=              systemd makes directories in /tmp and /var/tmp for it: users can fill both, and it would not start",
  "#   PrivateDevices=          the same, in /tmp; DevicePolicy= and the missing CAP_MKNOD keep it from devices",
  "#   PrivateNetwork=          the metadata address, STS and the callers' sockets are in this network namespace",
];

/** The directive that gives a service an environment. */
const environment = (variables: Readonly<Record<string, string>>): string =>
  `Environment=${Object.entries(variables)
    .map(([name, value]) => `${name}=${value}`)
    .join(" ")}`;

/** The last part of a path below /var/lib. */
const belowState = (path: string): string => path.replace(/^\/var\/lib\//, "");

/** The state directory that an installed unit of the proxy has; null where its text has none. */
export function stateDirectoryOf(unit: string): string | null {
  const name = /^StateDirectory=([A-Za-z0-9_-][A-Za-z0-9_.-]*)$/m.exec(unit)?.[1];
  return name === undefined ? null : `/var/lib/${name}`;
}

function serviceState(stateDirectory: string): readonly Line[] {
  return [`StateDirectory=${belowState(stateDirectory)}`, "StateDirectoryMode=0700", "UMask=0077"];
}

function proxyService(facts: UnitFacts): readonly Line[] {
  return [
    "[Service]",
    "# Ready when it listens, whether or not the metadata service and STS can be reached yet.",
    "Type=notify",
    "NotifyAccess=main",
    `ExecStart=${facts.binary ?? BINARY} serve --share-port --keep-port --config ${facts.config ?? CONFIG}` +
      (facts.object === undefined ? "" : ` --object ${facts.object}`),
    "# systemd keeps the listening sockets over a restart and a crash: no connection is refused, it waits. A stop closes them.",
    "FileDescriptorStoreMax=8",
    "# The file is checked first: the reload of an invalid one fails, and says what is wrong with it.",
    `ExecReload=${facts.binary ?? BINARY} config check --config ${facts.config ?? CONFIG}`,
    "ExecReload=/bin/kill -HUP $MAINPID",
    "Restart=always",
    "RestartSec=500ms",
    { since: 254, line: "RestartSteps=5" },
    { since: 254, line: "RestartMaxDelaySec=10s" },
    "# Far longer than page faults on a slow disk take: a proxy that is killed has to read all of its pages again.",
    "WatchdogSec=60s",
    "TimeoutStartSec=30s",
    "TimeoutStopSec=15s",
    "KillMode=mixed",
    "",
    "# An account that owns nothing, with its own group: one of that name may be a directory's, so it is not named. The capabilities:",
    "# the port below 1024, so that no user can take it while the proxy is away, and questions to conntrack about who opened a",
    "# connection.",
    `User=${ACCOUNT}`,
    "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE",
    "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE",
    ...serviceState(facts.stateDirectory),
    "# The sockets of `imdsproxy status`: nobody but root and the service can put another in their place. It stays over a restart.",
    `RuntimeDirectory=${STATUS_DIRECTORY.replace(/^\/run\//, "")}`,
    "RuntimeDirectoryPreserve=yes",
    "",
    "# When the node is short of memory, the kernel kills a job, not the proxy, by which all jobs get their credentials.",
    "OOMScoreAdjust=-900",
    "# Jobs that use every processor do not delay it: it needs little processor time, but at once.",
    "CPUWeight=1000",
    "LimitNOFILE=65536",
    "# It keeps running where users have used up the node's process ids.",
    environment(NO_LATER_THREADS),
    "# With thousands of sessions it takes a third less memory. This is no limit.",
    environment(HEAP_GROWTH),
    "",
    ...sandbox.filter((line) => typeof line === "string" || line.line !== HIDDEN_PROCESSES),
    "RemoveIPC=yes",
    "# With it systemd mounts a /proc of the service's own, which shows all processes, also where the node's /proc hides them",
    "# (hidepid=): the title of a slurmstepd says which job its step belongs to.",
    { since: 247, line: "ProcSubset=pid" },
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    ...LEFT_OUT,
    "#   ProtectProc=             a job of Slurm 26.05 and later is known by its slurmstepd's title, as `ps` shows it to everybody",
    "#   PrivateUsers=            uids must be the node's own, and capabilities must hold outside a user namespace",
    "#   IPAddressDeny=           STS's addresses are known only to DNS",
    "#   RootDirectory=           NSS (SSSD, LDAP) answers through sockets and libraries of the node",
  ];
}

function proxy(facts: UnitFacts): readonly Line[] {
  return [
    "[Unit]",
    "Description=imdsproxy: a role of their own for each user of the instance metadata service",
    "# The unit of the rules comes before sysinit.target. It is not named here: each start of this one would wait for its next",
    "# try, as long as it fails.",
    `Wants=${UNITS.repair}`,
    "# The proxy starts before users log in. This is only an order: a proxy that cannot start delays nobody for more than a moment.",
    `Before=${USERS_COME_IN}`,
    "StartLimitIntervalSec=0",
    "",
    ...proxyService(facts),
    "",
    "[Install]",
    `WantedBy=${WANTED_BY[UNITS.proxy]}`,
  ];
}

/** net.ipv4.tcp_migrate_req, for IPv6 too; since linux 5.14 (Documentation/networking/ip-sysctl.rst). */
const MIGRATE_SYSCTL = "/proc/sys/net/ipv4/tcp_migrate_req";

/**
 * When a listener closes, the kernel resets the connections that it has completed and the listener has not accepted, unless
 * this setting lets another listener of the port have them. It is set while there are two listeners. systemd restores the
 * former value however the second proxy and setup end. Where it did not, the value that was saved first stays saved, so that our
 * own value is not taken for the node's.
 */
const MIGRATE: readonly Line[] = [
  "# Connections that one listener has not accepted go to the other when it closes; afterwards the setting is as it was.",
  `ExecStartPre=-+/bin/sh -c 'test -s ${MIGRATE_BEFORE} || cat ${MIGRATE_SYSCTL} >${MIGRATE_BEFORE}; ` +
    `test -s ${MIGRATE_BEFORE} && echo 1 >${MIGRATE_SYSCTL}'`,
  `ExecStopPost=-+/bin/sh -c 'test -s ${MIGRATE_BEFORE} && cat ${MIGRATE_BEFORE} >${MIGRATE_SYSCTL}; rm -f ${MIGRATE_BEFORE}'`,
];

/**
 * The second proxy during an upgrade: the new executable with the new configuration, on the same port as the old one. It
 * tests the new version, and answers requests while the first proxy is replaced.
 */
function handover(facts: UnitFacts): readonly Line[] {
  return [
    "[Unit]",
    "Description=imdsproxy while its service is being replaced",
    "StartLimitIntervalSec=0",
    "",
    ...proxyService(facts)
      // No restart, so that setup sees at once that the new version does not start.
      .map((line) => (line === "Restart=always" ? "Restart=no" : line))
      // Where setup was killed in the middle, RuntimeMaxSec= ends the second proxy. It is far longer than a handover takes.
      .flatMap((line) => (line === "[Service]" ? [line, "RuntimeMaxSec=300", ...MIGRATE] : [line]))
      // systemd does not keep its sockets: they are closed when it ends.
      .map((line) => (typeof line === "string" ? line.replace(" --keep-port", "") : line))
      .filter(
        (line) =>
          typeof line !== "string" ||
          !/^(?:# systemd keeps the listening|FileDescriptorStoreMax=|# The sockets of|RuntimeDirectory)/.test(
            line,
          ),
      )
      .filter((line) => typeof line !== "string" || !line.startsWith("RestartSec="))
      .filter((line) => typeof line === "string" || !line.line.startsWith("Restart")),
  ];
}

const firewallSandbox = ({ readsShadow }: UnitFacts): readonly Line[] => [
  "# iptables is root's: it needs NET_ADMIN, and NET_RAW for the raw socket of iptables-legacy.",
  ...(readsShadow === true
    ? [
        "# DAC_READ_SEARCH for /etc/shadow, mode 000: an account of the platform's is exempt while its password is locked.",
        "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_DAC_READ_SEARCH",
      ]
    : ["CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW"]),
  "UMask=0077",
  "# The only address that they try is that of the HyperPod agent, to see whether it is there.",
  "IPAddressDeny=any",
  "IPAddressAllow=localhost link-local",
  "# iptables-legacy takes its lock in /run.",
  `ReadWritePaths=/run -${ROOT_STATE_DIRECTORY}`,
  ...sandbox,
  "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
  ...LEFT_OUT,
  "#   PrivateUsers=            rules belong to the network namespace of the node, and so must the capability to change them",
  "#   RootDirectory=           it runs the node's iptables, and asks its NSS",
  "#   StateDirectory=          with a full or read-only /var or /run systemd would not start it; nor RuntimeDirectory=",
  "#   ProcSubset=              iptables and the look for IPv6 read /proc/net",
  "#   User=                    rules are root's to change",
];

/** A command of a unit whose failure is ignored, because the rule may exist already or the kernel may have no IPv6. */
const byIp = (family: "ipv4" | "ipv6", ...words: readonly string[]) =>
  `ExecStart=-${IP} ${family === "ipv4" ? "-4" : "-6"} ${words.join(" ")}`;

/**
 * Moves the rule for the table `local` behind the rules of the closed state. The table is never without a rule: a second one, with
 * preference 1, exists meanwhile, even where this is interrupted and run again. A rule that an administrator has moved stays there.
 * systemd reads `$$` as `$`.
 */
const localLast = (family: "ipv4" | "ipv6") => {
  const ip = `${IP} ${family === "ipv4" ? "-4" : "-6"} rule`;
  const list = `${IP} ${family === "ipv4" ? "-4" : "-6"} -N rule list pref`;
  return (
    `ExecStart=-/bin/sh -c 'case "$$(${list} 0; ${list} 1)" in *"lookup 255"*) ` +
    `${ip} add pref 1 lookup 255 protocol kernel; ${ip} del pref 0 lookup 255; ` +
    `${ip} add pref 0 lookup 255 protocol kernel; ${ip} del pref 1 lookup 255;; esac'`
  );
};

const NOTHING_TO_FAIL: readonly Line[] = [
  "# Left out: for each of these systemd makes a namespace, a directory, a keyring or a BPF program, and where that fails, as",
  "# on a full disk, nothing of the unit runs:",
  ...[
    "ProtectSystem",
    "ProtectHome",
    "PrivateTmp",
    "PrivateDevices",
    "DevicePolicy",
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelTunables",
    "ProtectControlGroups",
    "ProtectKernelModules",
    "ProtectProc",
    "ProcSubset",
    "PrivateNetwork",
    "PrivateUsers",
    "RootDirectory",
    "KeyringMode",
    "IPAddressDeny",
  ].map((name) => `#   ${name}=`),
];

function closed(facts: UnitFacts): readonly Line[] {
  const upstream = facts.upstream === undefined || facts.upstream === "auto" ? null : facts.upstream;
  return [
    "[Unit]",
    "Description=imdsproxy: the metadata service is closed to users until the firewall rules are there",
    "# The first of ours, before file systems are mounted. It needs the kernel, ip(8) and sh, and nothing that a user can fill",
    "# or that another program writes. Rules by uid: root alone passes. The rules' unit takes this away as its last step.",
    "DefaultDependencies=no",
    "Before=local-fs-pre.target sysinit.target network-pre.target",
    "StartLimitIntervalSec=0",
    "",
    "[Service]",
    "Type=oneshot",
    "RemainAfterExit=yes",
    "# Not the journal, which may be stopped.",
    "StandardOutput=null",
    "StandardError=null",
    "# For sockets that users bind to an interface (SO_BINDTODEVICE): a rule with `prohibit` alone does not stop them.",
    "ExecStart=-/bin/sh -c 'n=0; for i in /sys/class/net/*; do n=$$((n+1)); " +
      `${IP} route add broadcast default dev "$$\{i##*/}" scope host metric $$n table ${CLOSED_TABLE}; done'`,
    ...closedRules(upstream).map(({ family, words }) => byIp(family, "rule", "add", "pref", "0", ...words)),
    localLast("ipv4"),
    localLast("ipv6"),
    "# The unit fails where the rules are missing, or come after the table `local`.",
    `ExecStart=/bin/sh -c 'case "$$(${IP} -4 -N rule list pref 0)" in *"lookup 255"*"lookup ${CLOSED_TABLE}"*) exit 1;; ` +
      `*"lookup ${CLOSED_TABLE}"*) exit 0;; esac; exit 1'`,
    "TimeoutStartSec=30s",
    "CapabilityBoundingSet=CAP_NET_ADMIN",
    "NoNewPrivileges=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
    "LimitCORE=0",
    ...NOTHING_TO_FAIL,
    "#   User=                    rules are root's to change",
    "",
    "[Install]",
    `WantedBy=${WANTED_BY[UNITS.closed]}`,
  ];
}

/** Makes the directory in which the rules are remembered. The rules are applied also without it. */
const ROOT_STATE = `ExecStartPre=-+/bin/mkdir -p -m 0700 ${ROOT_STATE_DIRECTORY}`;

function iptables(facts: UnitFacts): readonly Line[] {
  return [
    "[Unit]",
    "Description=imdsproxy's firewall rules",
    "# Before sysinit.target, hence before every service with ordinary dependencies: sshd, slurmd, sssd, cron, logind and",
    "# the sessions of users; before the network is there; and with or without the units of a SageMaker HyperPod node.",
    "DefaultDependencies=no",
    `After=${UNITS.closed} local-fs.target systemd-modules-load.service ${EARLY_FIREWALLS}`,
    "Before=sysinit.target network-pre.target",
    "Wants=network-pre.target",
    "# It is retried without end. The boot waits for the first try only; without the rules, the closed state continues.",
    "StartLimitIntervalSec=0",
    "",
    "[Service]",
    "Type=oneshot",
    "# No ExecStop: stopping, restarting and shutting down leave the rules in place. `imdsproxy service disable` removes them.",
    "RemainAfterExit=yes",
    "# iptables-legacy, inet_diag and conntrack_netlink may be modules, which the unit itself may not load.",
    "ExecStartPre=-+/sbin/modprobe --all --quiet ip_tables ip6_tables inet_diag tcp_diag nf_conntrack_netlink",
    ROOT_STATE,
    `ExecStart=${facts.binary ?? BINARY} iptables watch --once --config ${facts.config ?? CONFIG}`,
    "Restart=on-failure",
    "RestartSec=2s",
    "TimeoutStartSec=60s",
    ...firewallSandbox(facts),
    "",
    "[Install]",
    `WantedBy=${WANTED_BY[UNITS.iptables]}`,
  ];
}

function repair(facts: UnitFacts): readonly Line[] {
  return [
    "[Unit]",
    "Description=imdsproxy's watch over its firewall rules",
    "# After every firewall that could drop the rules while it loads its own, and before users come in: it says that it is",
    "# ready when it has seen the rules in order.",
    `After=${FIREWALLS}`,
    `Before=${USERS_COME_IN}`,
    "StartLimitIntervalSec=0",
    "",
    "[Service]",
    "Type=notify",
    "NotifyAccess=main",
    ROOT_STATE,
    `ExecStart=${facts.binary ?? BINARY} iptables watch --config ${facts.config ?? CONFIG}`,
    "Restart=always",
    "RestartSec=1s",
    "WatchdogSec=60s",
    "TimeoutStartSec=30s",
    "OOMScoreAdjust=-900",
    "# It keeps running where users have used up the node's process ids.",
    environment(NO_LATER_THREADS),
    ...firewallSandbox(facts),
    "",
    "[Install]",
    `WantedBy=${WANTED_BY[UNITS.repair]}`,
  ];
}

/** The text of each installed unit, by name. */
export function unitTexts(facts: UnitFacts): Record<(typeof UNITS)[keyof typeof UNITS], string> {
  return {
    [UNITS.closed]: render(closed(facts), facts.systemdVersion),
    [UNITS.iptables]: render(iptables(facts), facts.systemdVersion),
    [UNITS.repair]: render(repair(facts), facts.systemdVersion),
    [UNITS.proxy]: render(proxy(facts), facts.systemdVersion),
  };
}

function objectService({ directory, binary, config }: ObjectUnitFacts): readonly Line[] {
  return [
    "[Unit]",
    "Description=imdsproxy: one poll of the fleet's object of rules",
    "# No unit waits for it: the proxy starts with the copy on the disk.",
    "After=network-online.target",
    "StartLimitIntervalSec=0",
    "",
    "[Service]",
    "Type=oneshot",
    "# A poll that fails is a failed unit until the next one, and its reason is in the journal.",
    `ExecStart=${binary ?? BINARY} config fetch --config ${config ?? CONFIG}`,
    "TimeoutStartSec=60s",
    `StateDirectory=${belowState(directory)}`,
    "StateDirectoryMode=0755",
    "UMask=0077",
    "Nice=5",
    "# CHOWN gives the copy to the service's group, NET_ADMIN reaches a metadata address that systemd has locked.",
    "CapabilityBoundingSet=CAP_CHOWN CAP_NET_ADMIN",
    ...sandbox.filter((line) => typeof line !== "string" || !line.startsWith("# What runs stays")),
    "# fchown(2) is among @privileged.",
    "SystemCallFilter=@chown",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    ...LEFT_OUT,
    "#   PrivateUsers=            its files are root's and the service's group's",
    "#   IPAddressDeny=           S3's addresses are known only to DNS",
    "#   RootDirectory=           it asks the node's NSS for the service's group",
    "#   ProcSubset=              its look for networks reads /proc/net",
    "#   User=                    root alone reaches the instance role past the proxy, which has no part in it",
  ];
}

/** The longest random delay of a poll, as a share of the interval, so that a thousand nodes do not ask in the same second. */
const JITTER = 0.25;

const objectTimer = ({ everySeconds }: ObjectUnitFacts): readonly Line[] => [
  "[Unit]",
  "Description=imdsproxy: polls the fleet's object of rules",
  "",
  "[Timer]",
  "OnBootSec=5s",
  `OnUnitInactiveSec=${everySeconds}s`,
  `RandomizedDelaySec=${Math.ceil(everySeconds * JITTER)}s`,
  "AccuracySec=1s",
  "",
  "[Install]",
  `WantedBy=${WANTED_BY[OBJECT_UNITS.timer]}`,
];

/** The facts on which the units of the fleet's object depend. */
export interface ObjectUnitFacts extends Pick<UnitFacts, "systemdVersion" | "binary" | "config"> {
  /** The directory of the copy: a path below /var/lib. */
  readonly directory: string;
  /** Seconds from the end of a poll to the next. */
  readonly everySeconds: number;
}

/** The units that poll the fleet's object, by name; only where the configuration has `config`. */
export const objectUnitTexts = (
  facts: ObjectUnitFacts,
): Record<(typeof OBJECT_UNITS)[keyof typeof OBJECT_UNITS], string> => ({
  [OBJECT_UNITS.service]: render(objectService(facts), facts.systemdVersion),
  [OBJECT_UNITS.timer]: render(objectTimer(facts), facts.systemdVersion),
});

/** The text of the unit that runs only during an upgrade. */
export function handoverUnitText(facts: UnitFacts): string {
  return render(handover(facts), facts.systemdVersion);
}
