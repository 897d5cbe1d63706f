import type { CgroupHierarchy } from "../identity/cgroup-hierarchy.ts";
import { ACCOUNT, IP } from "./paths.ts";

/** Requirements that a node must meet before setup changes anything. Pure: facts.ts gathers the facts. */

/** An account of the node. */
export interface Account {
  readonly uid: number;
  readonly gid: number;
  readonly shell: string;
  /** Whether it is in /etc/passwd; otherwise it comes from a directory service. */
  readonly local: boolean;
}

/** What was found on the node. */
export interface NodeFacts {
  /** The effective uid of this process. */
  readonly uid: number;
  /** The number in `systemctl --version`; null where the node was not booted with systemd. */
  readonly systemdVersion: number | null;
  /** Which of {@link PROGRAMS} are missing. */
  readonly missingPrograms: readonly string[];
  /** Why the kernel cannot do the two look-ups that identify a caller; null where it can. */
  readonly socketLookup: string | null;
  readonly connectionTracking: string | null;
  readonly cgroups: CgroupHierarchy;
  /** The existing account with the service's name; null where there is none. */
  readonly account: Account | null;
  /** The gid of a group with the service's name that a directory service has and /etc/group has not; null where there is none. */
  readonly othersGroup: number | null;
  /** MiB that are free where the executable goes. */
  readonly freeMiB: number;
  /** MiB that the executable needs; 0 where it is there already. */
  readonly neededMiB: number;
  readonly glibc: string | null;
  readonly kernel: string;
}

/** Programs that setup and the service run, each with its package on Debian and on Amazon Linux. */
export const PROGRAMS: Readonly<Record<string, string>> = {
  iptables: "iptables",
  "iptables-save": "iptables",
  "iptables-restore": "iptables",
  ip6tables: "iptables",
  "ip6tables-save": "iptables",
  "ip6tables-restore": "iptables",
  [IP]: "iproute2 or iproute",
  getent: "libc-bin or glibc-common",
  useradd: "passwd or shadow-utils",
  userdel: "passwd or shadow-utils",
  systemctl: "systemd",
};

/** The oldest supported systemd: that of Ubuntu 20.04. */
const OLDEST_SYSTEMD = 245;

/** One line for each requirement that is not met: what is missing, and what is needed. */
export function unmet(facts: NodeFacts): readonly string[] {
  const problems: string[] = [];
  if (facts.uid !== 0) problems.push("not running as root: run it with sudo");
  if (facts.systemdVersion === null) {
    problems.push("this node was not booted with systemd: setup needs it to start the service at boot");
  } else if (facts.systemdVersion < OLDEST_SYSTEMD) {
    problems.push(
      `systemd ${facts.systemdVersion} is too old: needs ${OLDEST_SYSTEMD} (Ubuntu 20.04) or newer`,
    );
  }
  const packages = new Map<string, string[]>();
  for (const program of facts.missingPrograms) {
    const name = PROGRAMS[program] ?? program;
    packages.set(name, [...(packages.get(name) ?? []), program]);
  }
  for (const [name, programs] of packages) {
    problems.push(`${programs.join(", ")} not found: install the package ${name}`);
  }
  if (facts.socketLookup !== null) {
    problems.push(
      `the kernel cannot say who owns a socket (${facts.socketLookup}): load the module tcp_diag`,
    );
  }
  if (facts.connectionTracking !== null) {
    problems.push(
      `the kernel's connection tracking cannot be asked (${facts.connectionTracking}): load the module nf_conntrack_netlink`,
    );
  }
  problems.push(...accountProblems(facts.account));
  // useradd(8) refuses to make a group whose name any NSS service has.
  if (facts.account === null && facts.othersGroup !== null) {
    problems.push(
      `the group ${ACCOUNT} (gid ${facts.othersGroup}) comes from a directory service, so that the service's account can have none of that ` +
        "name: rename it in the directory",
    );
  }
  if (facts.freeMiB < facts.neededMiB) {
    problems.push(
      `${facts.freeMiB} MiB are free below /usr/local/bin, ${facts.neededMiB} are needed: make room, then run setup again`,
    );
  }
  return problems;
}

function accountProblems(account: Account | null): readonly string[] {
  if (account === null) return [];
  if (!account.local) {
    return [
      `the account ${ACCOUNT} (uid ${account.uid}) comes from a directory service, not /etc/passwd, and the service would run as it: ` +
        "rename it in the directory; where /etc/passwd has an account of that name too, have nsswitch.conf ask files first",
    ];
  }
  const remedy = "the firewall lets this account reach the instance role: rename or remove it";
  if (account.uid === 0 || account.uid >= 1000) {
    return [
      `the account ${ACCOUNT} has uid ${account.uid}, which is no system account's (1 to 999): ${remedy}`,
    ];
  }
  if (!/\/(?:nologin|false)$/.test(account.shell)) {
    return [
      `the account ${ACCOUNT} has the shell ${account.shell}, so that somebody may log in as it: ${remedy}`,
    ];
  }
  return [];
}
