import { CLOSED_TABLE, closedRules } from "../../firewall/closed-state.ts";
import { IP, UNITS, WANTED_BY } from "../paths.ts";
import type { Line, UnitFacts } from "./parts.ts";

/** The unit that closes the metadata service to users before anything else runs. */

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

/** The closed state. */
export function closed(facts: UnitFacts): readonly Line[] {
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
