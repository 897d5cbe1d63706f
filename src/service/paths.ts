/** Everything that setup puts on a node, and nothing else: uninstall removes exactly these. */

/** The service's account and group. The firewall lets it reach the upstream, so nobody else may be it. */
export const ACCOUNT = "imdsproxy";

export const BINARY = "/usr/local/bin/imdsproxy";
export const CONFIG_DIRECTORY = "/etc/imdsproxy";
export const CONFIG = `${CONFIG_DIRECTORY}/config.yaml`;
export const UNIT_DIRECTORY = "/etc/systemd/system";

/**
 * What root remembers across reboots: the firewall's last good state. Not below the service's own state directory:
 * root must not write into a directory that a less privileged account could fill with links.
 */
export const ROOT_STATE_DIRECTORY = "/var/lib/imdsproxy-root";
/** Belongs to root for the same reason; the service reads telemetry/firewall-health.ts's file in it for its metrics. */
export const RUNTIME_DIRECTORY = "/run/imdsproxy";
export const LAST_FIREWALL = `${ROOT_STATE_DIRECTORY}/firewall.json`;
/**
 * The rules as they were when they were seen right, in bytes. Below /run: what exempted an account before a boot may
 * exempt another after it.
 */
export const KNOWN_RULES = `${RUNTIME_DIRECTORY}/rules.json`;
/** Is there where HyperPod's agent has been seen to have its entry in nat OUTPUT, and nobody has removed it by our command. */
export const AGENT_ENTRY_SEEN = `${ROOT_STATE_DIRECTORY}/agent-entry`;

/** What is left to do of an installation that was cut short; see transaction.ts. */
export const JOURNAL = `${CONFIG_DIRECTORY}/.setup-journal.json`;
/** One setup at a time. In /run, which only root can write to: a user must not be able to hold the lock. */
export const LOCK = "/run/imdsproxy-setup.lock";

/** ip(8) of iproute2, where Debian, Ubuntu and Amazon Linux have it. */
export const IP = "/sbin/ip";

/** The units, in the order in which they start. */
export const UNITS = {
  closed: "imdsproxy-closed.service",
  iptables: "imdsproxy-iptables.service",
  repair: "imdsproxy-repair.service",
  proxy: "imdsproxy.service",
} as const;

/** A second proxy beside the first while the first is replaced. In /run: no reboot may find it. */
export const HANDOVER_UNIT = "imdsproxy-handover.service";
/** What net.ipv4.tcp_migrate_req was before a second proxy ran; there while one runs. */
export const MIGRATE_BEFORE = "/run/imdsproxy-tcp-migrate-req";
export const RUNTIME_UNIT_DIRECTORY = "/run/systemd/system";
