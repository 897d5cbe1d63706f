import type { Endpoint } from "../../identity/endpoint.ts";
import { BINARY, CONFIG } from "../paths.ts";

/** What several units have in common. */

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
export type Line = string | { readonly since: number; readonly line: string };

/** The text of a unit, with the directives that this version of systemd knows. */
export const render = (lines: readonly Line[], version: number): string =>
  `${lines
    .filter((line) => typeof line === "string" || version >= line.since)
    .map((line) => (typeof line === "string" ? line : line.line))
    .join("\n")}\n`;

/**
 * The services that let users log in, or that run jobs of users, such as cron. None of them starts before the firewall was
 * found right. systemd ignores names that a node does not have. The list has services, not their sockets: sockets start
 * before basic.target and our units after it, so an order of sockets after our units would be a cycle.
 */
export const USERS_COME_IN = [
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
export const EARLY_FIREWALLS = "netfilter-persistent.service nftables.service";
export const FIREWALLS = `${EARLY_FIREWALLS} iptables.service ip6tables.service ufw.service firewalld.service`;

export const HIDDEN_PROCESSES = "ProtectProc=invisible";

/** The hardening directives with which the proxy and the firewall's units still work, tried with Bun 1.4. */
export const sandbox: readonly Line[] = [
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

export const LEFT_OUT: readonly Line[] = [
  "# Left out, each for a reason:",
  "#   MemoryDenyWriteExecute=  Bun compiles JavaScript and its FFI calls at run time, into memory that is written and run",
  "#   PrivateTmp=              systemd makes directories in /tmp and /var/tmp for it: users can fill both, and it would not start",
  "#   PrivateDevices=          the same, in /tmp; DevicePolicy= and the missing CAP_MKNOD keep it from devices",
  "#   PrivateNetwork=          the metadata address, STS and the callers' sockets are in this network namespace",
];

/** The directive that gives a service an environment. */
export const environment = (variables: Readonly<Record<string, string>>): string =>
  `Environment=${Object.entries(variables)
    .map(([name, value]) => `${name}=${value}`)
    .join(" ")}`;

/** The last part of a path below /var/lib. */
export const belowState = (path: string): string => path.replace(/^\/var\/lib\//, "");
