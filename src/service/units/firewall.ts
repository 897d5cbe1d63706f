import { NO_LATER_THREADS } from "../../platform/engine-options.ts";
import { BINARY, CONFIG, JOURNAL, ROOT_STATE_DIRECTORY, UNITS, WANTED_BY } from "../paths.ts";
import {
  EARLY_FIREWALLS,
  environment,
  FIREWALLS,
  LEFT_OUT,
  type Line,
  sandbox,
  type UnitFacts,
  USERS_COME_IN,
} from "./parts.ts";

/** The units of the firewall's rules: the one that brings them at boot, and the watch over them. */

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

/** Makes the directory in which the rules are remembered. The rules are applied also without it. */
const ROOT_STATE = `ExecStartPre=-+/bin/mkdir -p -m 0700 ${ROOT_STATE_DIRECTORY}`;

/** The rules at boot. */
export function iptables(facts: UnitFacts): readonly Line[] {
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
    "# A setup that a power cut interrupted is completed, outside of the sandbox, which does not let it write. The last before",
    "# ExecStart: it makes systemd load the units again.",
    `ExecStartPre=-+/bin/sh -c 'test ! -e ${JOURNAL} || exec ${facts.binary ?? BINARY} service recover'`,
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

/** The watch. */
export function repair(facts: UnitFacts): readonly Line[] {
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
