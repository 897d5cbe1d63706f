import { cgroupMount } from "../identity/cgroup-tree.ts";
import { NETLINK_SOCK_DIAG } from "../identity/netlink/inet-diag.ts";
import { KernfsMount } from "../platform/file-handle.ts";
import { NetlinkSocket } from "../platform/netlink-socket.ts";
import type { Evidence } from "./observer.ts";
import { Processes } from "./processes.ts";
import { SenderSockets } from "./sockets.ts";

/** The evidence of this machine: sockets from sock_diag, cgroups by their ids, processes from /proc. */

/** The most paths of cgroups in memory. They stay right: an id is never used again, and cgroup v2 allows no renaming. */
const MOST_PATHS = 4_096;
const WARM_UP_ROUNDS = 3;

export interface SystemEvidence extends Evidence {
  readonly processes: Processes;
  /** What this machine cannot tell, for people. */
  readonly notes: readonly string[];
  /** Makes each kind of look-up once in advance: the first one takes milliseconds, in which a short program may end. */
  warmUp(): void;
  close(): void;
}

/** Null where another file system is mounted over it. */
function openMount(mount: string): KernfsMount | null {
  try {
    return new KernfsMount(mount);
  } catch {
    return null;
  }
}

export function systemEvidence(): SystemEvidence {
  const diag = new NetlinkSocket(NETLINK_SOCK_DIAG, "sock_diag");
  const sockets = new SenderSockets(diag);
  const processes = new Processes();
  const mount = cgroupMount();
  const cgroups = mount === null ? null : openMount(mount);
  const paths = new Map<bigint, string>();
  const evidence: SystemEvidence = {
    processes,
    notes:
      cgroups === null
        ? ["cgroup v2 cannot be read here: units, jobs, containers and programs are unknown"]
        : [],
    socket: (tuple, outInterface) => sockets.find(tuple, outInterface),
    cgroupPath(id) {
      const known = paths.get(id);
      if (known !== undefined) return known;
      const path = cgroups?.pathOf(id) ?? null;
      if (path === null) return null;
      if (paths.size >= MOST_PATHS) paths.clear();
      paths.set(id, path);
      return path;
    },
    processesIn: (cgroup) => (mount === null ? [] : processes.inCgroup(`${mount}${cgroup}`)),
    withSocket: (inode, pids) => processes.withSocket(inode, pids),
    hasSocket: (found, inode) => processes.hasSocket(found, inode),
    warmUp() {
      const nobody = new Uint8Array(4);
      const tuple = { sourceAddress: nobody, sourcePort: 0, destinationAddress: nobody, destinationPort: 0 };
      for (let round = 0; round < WARM_UP_ROUNDS; round++) {
        evidence.socket(tuple, null);
        cgroups?.pathOf(0n);
        evidence.withSocket(0, [process.pid, ...evidence.processesIn("/").slice(0, 2)]);
      }
    },
    close() {
      cgroups?.close();
      diag.close();
    },
  };
  return evidence;
}
