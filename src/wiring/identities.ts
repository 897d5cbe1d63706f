import { ImdsProxyError } from "../errors.ts";
import { Accounts } from "../identity/accounts.ts";
import { Cgroups } from "../identity/cgroup.ts";
import { cgroupMount, cgroupTree } from "../identity/cgroup-tree.ts";
import { getentDatabase } from "../identity/getent.ts";
import { SocketLookup } from "../identity/lookup.ts";
import { NETLINK_NETFILTER } from "../identity/netlink/conntrack.ts";
import { NETLINK_SOCK_DIAG } from "../identity/netlink/inet-diag.ts";
import { IdentityResolver } from "../identity/resolver.ts";
import { systemClock } from "../platform/clock.ts";
import { NetlinkSocket } from "../platform/libc.ts";
import type { Needs } from "../rules/decide.ts";

/** The exact look-up over this machine's kernel. @throws ImdsProxyError `missing` where it has no such netlink. */
export const systemLookup = (): SocketLookup =>
  new SocketLookup({
    diag: new NetlinkSocket(NETLINK_SOCK_DIAG, "sock_diag"),
    conntrack: new NetlinkSocket(NETLINK_NETFILTER, "connection tracking"),
  });

/**
 * Names and cgroups of this machine, as far as the rules need them.
 *
 * @throws ImdsProxyError `missing` where they need cgroups and there is no cgroup v2.
 */
export function systemIdentities(needs: Needs): IdentityResolver {
  const accounts = new Accounts({ database: getentDatabase, clock: systemClock });
  if (!needs.cgroup) return new IdentityResolver({ accounts, cgroups: null });
  const mount = cgroupMount();
  if (mount === null) {
    throw new ImdsProxyError(
      "missing",
      "the rules ask for cgroups or Slurm jobs, and cgroup v2 is not mounted",
      "boot with systemd.unified_cgroup_hierarchy=1, or take cgroup, slurmJob and {slurmJobId} out of the rules",
    );
  }
  return new IdentityResolver({ accounts, cgroups: new Cgroups(cgroupTree(mount), systemClock) });
}
