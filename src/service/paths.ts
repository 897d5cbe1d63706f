/** The paths and names that setup puts on a node; uninstall removes exactly these. */

/** The service's account and group. The firewall lets this account reach the upstream, so nobody else may use it. */
export const ACCOUNT = "imdsproxy";

export const BINARY = "/usr/local/bin/imdsproxy";
export const CONFIG_DIRECTORY = "/etc/imdsproxy";
export const CONFIG = `${CONFIG_DIRECTORY}/config.yaml`;
/** The JSON schema by which editors complete and check the configuration. The first line of a configuration by setup names it. */
export const CONFIG_SCHEMA = `${CONFIG_DIRECTORY}/config.schema.json`;
/** Keeps the module of a socket family away; see smc.ts. */
export const MODPROBE = "/etc/modprobe.d/imdsproxy.conf";
export const UNIT_DIRECTORY = "/etc/systemd/system";

/**
 * Root's state across reboots: the last good rules. Not below the service's own state directory, because root must not write
 * into a directory in which a less privileged account can place links.
 */
export const ROOT_STATE_DIRECTORY = "/var/lib/imdsproxy-root";
/** Belongs to root for the same reason; the service reads telemetry/firewall-health.ts's file in it for its metrics. */
export const RUNTIME_DIRECTORY = "/run/imdsproxy";
export const LAST_FIREWALL = `${ROOT_STATE_DIRECTORY}/firewall.json`;
/**
 * The last rules that were compared and found right, in the kernel's format. Below /run, because a uid may belong to another
 * account after a reboot.
 */
export const KNOWN_RULES = `${RUNTIME_DIRECTORY}/rules.json`;
/** Exists where the entry of HyperPod's agent has been seen in nat OUTPUT, and was not removed by `iptables remove-original`. */
export const AGENT_ENTRY_SEEN = `${ROOT_STATE_DIRECTORY}/agent-entry`;

/** What `observe` has seen, over all of its runs. */
export const OBSERVED = `${ROOT_STATE_DIRECTORY}/observed.json`;

/** The journal of an installation under way; see transaction.ts. */
export const JOURNAL = `${CONFIG_DIRECTORY}/.setup-journal.json`;
/** Exists while the proxy runs from files that were replaced since; has its state directory. In /run: a boot starts it from the new ones. */
export const TO_RESTART = "/run/imdsproxy-to-restart";
/** The lock of setup. In /run, where only root can write, so that no user can hold it. */
export const LOCK = "/run/imdsproxy-setup.lock";
/** The lock of observe: one run at a time. */
export const OBSERVE_LOCK = "/run/imdsproxy-observe.lock";

/** ip(8) of iproute2, where Debian, Ubuntu and Amazon Linux have it. */
export const IP = "/sbin/ip";

/** The units, in the order in which they start. */
export const UNITS = {
  closed: "imdsproxy-closed.service",
  iptables: "imdsproxy-iptables.service",
  repair: "imdsproxy-repair.service",
  proxy: "imdsproxy.service",
} as const;

/** The units that poll the fleet's object; only where the configuration has `config`. */
export const OBJECT_UNITS = {
  service: "imdsproxy-config.service",
  timer: "imdsproxy-config.timer",
} as const;

/** The target that wants each unit which starts at boot: its `WantedBy=`. */
export const WANTED_BY = {
  [UNITS.closed]: "sysinit.target",
  [UNITS.iptables]: "sysinit.target",
  [UNITS.repair]: "multi-user.target",
  [UNITS.proxy]: "multi-user.target",
  [OBJECT_UNITS.timer]: "timers.target",
} as const;

/** The unit of the second proxy during an upgrade. In /run, so that it does not survive a reboot. */
export const HANDOVER_UNIT = "imdsproxy-handover.service";
/** The value of net.ipv4.tcp_migrate_req from before the second proxy was started; exists while that runs. */
export const MIGRATE_BEFORE = "/run/imdsproxy-tcp-migrate-req";
export const RUNTIME_UNIT_DIRECTORY = "/run/systemd/system";
