import { existsSync, readdirSync, readFileSync, statfsSync, statSync } from "node:fs";
import { release } from "node:os";
import { ImdsProxyError } from "../errors.ts";
import { accountLines, uidInPasswd } from "../firewall/accounts.ts";
import { cgroupHierarchy } from "../identity/cgroup-hierarchy.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import { encodeConnectionRequest, NETLINK_NETFILTER } from "../identity/netlink/conntrack.ts";
import { encodeSocketRequest, NETLINK_SOCK_DIAG, type Tuple } from "../identity/netlink/inet-diag.ts";
import { readReply } from "../identity/netlink/message.ts";
import { getent } from "../platform/getent.ts";
import { NetlinkSocket } from "../platform/netlink-socket.ts";
import { findProgram, SYSTEM_PATH } from "../platform/programs.ts";
import { firstUnprivilegedPort } from "../platform/unprivileged-port.ts";
import type { RunCommand } from "./command.ts";
import { sameBytes } from "./installed-file.ts";
import { ACCOUNT, BINARY, LAST_FIREWALL } from "./paths.ts";
import type { PortFacts } from "./port-warnings.ts";
import { type Account, type NodeFacts, PROGRAMS } from "./requirements.ts";

/** Gathers facts about the node; changes nothing. */
export async function gatherFacts(run: RunCommand, executable: string): Promise<NodeFacts> {
  const [systemdVersion, account, othersGroup, glibc] = await Promise.all([
    systemd(run),
    findAccount(),
    findOthersGroup(),
    run(["getconf", "GNU_LIBC_VERSION"]),
  ]);
  return {
    uid: process.geteuid?.() ?? -1,
    systemdVersion,
    missingPrograms: Object.keys(PROGRAMS).filter((name) => findProgram(name, SYSTEM_PATH) === null),
    socketLookup: kernelAnswers(NETLINK_SOCK_DIAG, "socket look-ups", encodeSocketRequest),
    connectionTracking: kernelAnswers(NETLINK_NETFILTER, "connection tracking", encodeConnectionRequest),
    cgroups: cgroupHierarchy(),
    account,
    othersGroup,
    ...room(executable),
    glibc: glibc.exitCode === 0 ? glibc.stdout.trim() : null,
    kernel: release(),
  };
}

/** Where the last rules of this node sent users; null where they were not saved, or the file cannot be read. */
export function lastListen(path: string = LAST_FIREWALL): Endpoint | null {
  try {
    const { listen } = JSON.parse(readFileSync(path, "utf8")) as { listen?: Partial<Endpoint> };
    const { address, port } = listen ?? {};
    return typeof address === "string" && typeof port === "number" ? { address, port } : null;
  } catch {
    return null;
  }
}

/** Facts about other uses of the proxy's port. */
export function portFacts(): PortFacts {
  return { lustre: lustre(), unprivilegedFrom: firstUnprivilegedPort() };
}

/** The evidence that the node uses Lustre's network, LNet, whose acceptor listens on 988; null where there is none. */
function lustre(): string | null {
  const text = (path: string): string => {
    try {
      return readFileSync(path, "utf8");
    } catch {
      return "";
    }
  };
  if (/^lnet /m.test(text("/proc/modules"))) return "the module lnet is loaded";
  if (existsSync("/etc/lnet.conf")) return "/etc/lnet.conf is there";
  for (const directory of ["/etc/modprobe.d", "/etc/modules-load.d"]) {
    let names: string[] = [];
    try {
      names = readdirSync(directory);
    } catch {
      // No such directory: nothing is configured in it.
    }
    for (const name of names) {
      const path = `${directory}/${name}`;
      if (/^[^#\n]*\b(?:lnet|lustre|ksocklnd)\b/m.test(text(path))) return `${path} names it`;
    }
  }
  return null;
}

async function systemd(run: RunCommand): Promise<number | null> {
  // sd_booted(3)
  if (!existsSync("/run/systemd/system")) return null;
  const version = /^systemd (\d+)/.exec((await run(["systemctl", "--version"])).stdout)?.[1];
  return version === undefined ? null : Number(version);
}

/** The service's account, where the node has one of that name. @throws ImdsProxyError where the account database does not answer. */
export async function findAccount(): Promise<Account | null> {
  const fields = await getent("passwd", ACCOUNT);
  if (fields === null) return null;
  const uid = Number(fields[2]);
  const local = uidInPasswd(readFileSync("/etc/passwd", "utf8"), ACCOUNT) === uid;
  return { uid, gid: Number(fields[3]), shell: fields[6] ?? "", local };
}

/**
 * The uid of the service's account, for reports: from /etc/passwd, where setup makes it, else from a directory service. Null where
 * there is none, and where the directory does not answer in time.
 */
export async function accountUid(): Promise<number | null> {
  const local = uidInPasswd(readFileSync("/etc/passwd", "utf8"), ACCOUNT);
  if (local !== null) return local;
  const fields = await getent("passwd", ACCOUNT, TOLD_WITHIN_MS).catch(() => null);
  return fields === null ? null : Number(fields[2]);
}
const TOLD_WITHIN_MS = 2_000;

/** Whether the service's account is in /etc/passwd, its group in /etc/group. Setup did not make those that only a directory has. */
export const hasLocalAccount = (): boolean => isInFile("/etc/passwd");
export const hasLocalGroup = (): boolean => isInFile("/etc/group");

/** The gid of a group with the service's name that only a directory has; null where there is none. */
async function findOthersGroup(): Promise<number | null> {
  if (hasLocalGroup()) return null;
  const fields = await getent("group", ACCOUNT).catch(() => null);
  return fields === null ? null : Number(fields[2]);
}

const isInFile = (path: string): boolean =>
  accountLines(readFileSync(path, "utf8")).some(([name]) => name === ACCOUNT);

const NOWHERE = Uint8Array.of(127, 0, 0, 1);
/** A connection that does not exist: a working kernel answers ENOENT. */
const NO_CONNECTION: Tuple = {
  sourceAddress: NOWHERE,
  sourcePort: 1,
  destinationAddress: NOWHERE,
  destinationPort: 1,
};
const ENOENT = 2;

function kernelAnswers(
  protocol: number,
  what: string,
  encode: (tuple: Tuple, sequence: number) => Uint8Array,
): string | null {
  let socket: NetlinkSocket;
  try {
    socket = new NetlinkSocket(protocol, what);
  } catch (error) {
    return error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
  }
  try {
    socket.send(encode(NO_CONNECTION, 1));
    const datagram = socket.receive();
    if (datagram === null) return "no answer";
    const reply = readReply(datagram, 1, socket.portId);
    if (reply.kind === "error" && reply.errno !== ENOENT) return `errno ${reply.errno}`;
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    socket.close();
  }
}

const MIB = 1_048_576;

/**
 * How much space the executable needs on the file system where it is installed, and how much is free, in MiB.
 *
 * @throws ImdsProxyError `missing` where the running program's file was replaced or removed since it was started.
 */
export function room(executable: string): { freeMiB: number; neededMiB: number } {
  let directory = BINARY;
  while (!existsSync(directory)) directory = directory.replace(/\/[^/]*$/, "") || "/";
  const { bavail, bsize } = statfsSync(directory);
  const file = statSync(executable, { throwIfNoEntry: false });
  if (file === undefined)
    throw new ImdsProxyError(
      "missing",
      `the file of this program, ${executable}, is gone since it was started`,
      "run it again from the file that is there now",
    );
  const freeMiB = Math.floor((bavail * bsize) / MIB);
  const neededMiB = executable === BINARY ? 0 : Math.ceil(file.size / MIB);
  // What is there already is not written again.
  const isThere = () => existsSync(BINARY) && sameBytes(executable, BINARY);
  return { freeMiB, neededMiB: freeMiB < neededMiB && isThere() ? 0 : neededMiB };
}
