import { HEAP_GROWTH, NO_LATER_THREADS } from "../../platform/engine-options.ts";
import { STATUS_DIRECTORY } from "../../telemetry/status-document.ts";
import { ACCOUNT, BINARY, CONFIG, MIGRATE_BEFORE, UNITS, WANTED_BY } from "../paths.ts";
import {
  belowState,
  environment,
  HIDDEN_PROCESSES,
  LEFT_OUT,
  type Line,
  sandbox,
  type UnitFacts,
  USERS_COME_IN,
} from "./parts.ts";

/** The units of the proxy: the service, and the second proxy of an upgrade. */

/** The state directory that an installed unit of the proxy has; null where its text has none. */
export function stateDirectoryOf(unit: string): string | null {
  const name = /^StateDirectory=([A-Za-z0-9_-][A-Za-z0-9_.-]*)$/m.exec(unit)?.[1];
  return name === undefined ? null : `/var/lib/${name}`;
}

function serviceState(stateDirectory: string): readonly Line[] {
  return [`StateDirectory=${belowState(stateDirectory)}`, "StateDirectoryMode=0700", "UMask=0077"];
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

const RESTART: readonly Line[] = [
  "Restart=always",
  "RestartSec=500ms",
  { since: 254, line: "RestartSteps=5" },
  { since: 254, line: "RestartMaxDelaySec=10s" },
];

/** @param isSecond whether it is that of the second proxy, which runs during an upgrade. */
function proxyService(facts: UnitFacts, isSecond: boolean): readonly Line[] {
  return [
    "[Service]",
    // Where setup was killed in the middle, RuntimeMaxSec= ends the second proxy. It is far longer than a handover takes.
    ...(isSecond ? ["RuntimeMaxSec=300", ...MIGRATE] : []),
    "# Ready when it listens, whether or not the metadata service and STS can be reached yet.",
    "Type=notify",
    "NotifyAccess=main",
    `ExecStart=${facts.binary ?? BINARY} serve --share-port${isSecond ? "" : " --keep-port"} --config ${facts.config ?? CONFIG}` +
      (facts.object === undefined ? "" : ` --object ${facts.object}`),
    // Those of the second proxy are closed when it ends.
    ...(isSecond
      ? []
      : [
          "# systemd keeps the listening sockets over a restart and a crash: no connection is refused, it waits. A stop closes them.",
          "FileDescriptorStoreMax=8",
        ]),
    "# The file is checked first: the reload of an invalid one fails, and says what is wrong with it.",
    `ExecReload=${facts.binary ?? BINARY} config check --config ${facts.config ?? CONFIG}`,
    "ExecReload=/bin/kill -HUP $MAINPID",
    // The second proxy is not started again, so that setup sees at once that the new version does not start.
    ...(isSecond ? ["Restart=no"] : RESTART),
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
    ...(isSecond
      ? []
      : [
          "# The sockets of `imdsproxy status`: nobody but root and the service can put another in their place. It stays over a restart.",
          `RuntimeDirectory=${STATUS_DIRECTORY.replace(/^\/run\//, "")}`,
          "RuntimeDirectoryPreserve=yes",
        ]),
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

/** The service. */
export function proxy(facts: UnitFacts): readonly Line[] {
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
    ...proxyService(facts, false),
    "",
    "[Install]",
    `WantedBy=${WANTED_BY[UNITS.proxy]}`,
  ];
}

/**
 * The second proxy during an upgrade: the new executable with the new configuration, on the same port as the old one. It
 * tests the new version, and answers requests while the first proxy is replaced.
 */
export function handover(facts: UnitFacts): readonly Line[] {
  return [
    "[Unit]",
    "Description=imdsproxy while its service is being replaced",
    "StartLimitIntervalSec=0",
    "",
    ...proxyService(facts, true),
  ];
}
