import { readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { release } from "node:os";
import { ImdsProxyError } from "../errors.ts";
import { Accounts, type UnavailableEvent } from "../identity/accounts.ts";
import { Cgroups } from "../identity/cgroup.ts";
import { cgroupMount, cgroupTree } from "../identity/cgroup-tree.ts";
import { mayHideCgroups } from "../identity/hidden-cgroups.ts";
import { SocketLookup } from "../identity/lookup.ts";
import { nameDatabase } from "../identity/name-database.ts";
import { NameHelpers } from "../identity/name-helpers.ts";
import { NETLINK_NETFILTER } from "../identity/netlink/conntrack.ts";
import { NETLINK_SOCK_DIAG } from "../identity/netlink/inet-diag.ts";
import { IdentityResolver } from "../identity/resolver.ts";
import { SluidJobs } from "../identity/sluid-jobs.ts";
import { jobOfStep } from "../identity/step-daemon.ts";
import { monotonicMs, systemClock } from "../platform/clock.ts";
import { NetlinkSocket } from "../platform/netlink-socket.ts";
import { selfCommand } from "../platform/self.ts";
import type { Needs } from "../rules/decide.ts";

/** The exact look-up of sockets in this machine's kernel. @throws ImdsProxyError `missing` where it has no such netlink. */
export const systemLookup = (): SocketLookup =>
  new SocketLookup({
    diag: new NetlinkSocket(NETLINK_SOCK_DIAG, "sock_diag"),
    conntrack: new NetlinkSocket(NETLINK_NETFILTER, "connection tracking"),
  });

/** The names of this machine's accounts. */
export interface SystemNames {
  readonly accounts: Accounts;
  /** Ends the processes that ask NSS. */
  close(): void;
}

/**
 * The running executable. Its path may lead to a newer one by now, which need not understand this one's protocol; the link
 * leads to the file that runs, also where it has been replaced (proc(5), /proc/PID/exe).
 */
const OURSELVES = "/proc/self/exe";

/** @param onUnavailable called for look-ups that a service of NSS did not answer. */
export function systemNames(onUnavailable: (event: UnavailableEvent) => void = () => {}): SystemNames {
  const [, ...rest] = selfCommand();
  const helpers = new NameHelpers({
    command: [OURSELVES, ...rest],
    monotonicMs,
  });
  helpers.start();
  const accounts = new Accounts({ database: nameDatabase(helpers), clock: systemClock, onUnavailable });
  return { accounts, close: () => helpers.close() };
}

/** The jobs of this machine's Slurm, where their cgroups have a SLUID; null where there is no cgroup v2. */
export function systemSluids(mount: string | null = cgroupMount()): SluidJobs | null {
  return mount === null ? null : new SluidJobs((path, step) => jobOfStep(mount, path, step), systemClock);
}

/** Names and cgroups of this machine, both, for the audit; without cgroups where there is no cgroup v2. */
export function wholeIdentities(accounts: Accounts): IdentityResolver {
  const mount = cgroupMount();
  const cgroups = mount === null ? null : new Cgroups(cgroupTree(mount), systemClock);
  return new IdentityResolver({ accounts, cgroups, sluids: systemSluids(mount) });
}

/**
 * Names and cgroups of this machine, as far as the rules need them.
 *
 * @param accounts kept over a reload of the configuration: while a directory is away, what it remembers is needed.
 * @param jobsUnknown why no Slurm job can be known on this node; null where there is no sign of that.
 * @throws ImdsProxyError `missing` where they need cgroups and there is no cgroup v2.
 */
export function systemIdentities(
  needs: Needs,
  accounts: Accounts,
  jobsUnknown: string | null,
): IdentityResolver {
  if (!needs.cgroup) return new IdentityResolver({ accounts, cgroups: null });
  const mount = cgroupMount();
  if (mount === null) {
    throw new ImdsProxyError(
      "missing",
      "the rules ask for cgroups or Slurm jobs, and cgroup v2 is not mounted",
      "boot with systemd.unified_cgroup_hierarchy=1, or take cgroup, slurmJob and {slurmJobId} out of the rules",
    );
  }
  return new IdentityResolver({
    accounts,
    cgroups: new Cgroups(cgroupTree(mount), systemClock),
    jobsUnknown,
    sluids: systemSluids(mount),
    rootIsUnknown: mayHideCgroups(readFileSync("/proc/self/mountinfo", "utf8"), release()),
  });
}

/** Tells whether a cgroup of this machine is there, by its path below the mount; every one is, where there is no cgroup v2. */
export function cgroupTest(): (path: string) => Promise<boolean> {
  const mount = cgroupMount();
  if (mount === null) return async () => true;
  return async (path) => {
    try {
      await stat(`${mount}${path}`);
      return true;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code !== "ENOENT";
    }
  };
}
