import { ImdsProxyError } from "../../errors.ts";
import { addressText, parseAddress } from "../../identity/address.ts";
import {
  decodeConnection,
  encodeConnectionRequest,
  NETLINK_NETFILTER,
} from "../../identity/netlink/conntrack.ts";
import { NETLINK_SOCK_DIAG, sameTuple, type Tuple } from "../../identity/netlink/inet-diag.ts";
import { readReply } from "../../identity/netlink/message.ts";
import { NetlinkSocket } from "../../platform/netlink-socket.ts";
import { redirectTarget } from "../addresses.ts";
import { type ReadMessage, readBatchAnswer, readDumpPart } from "../nftables/batch.ts";
import type { Family, FirewallSpec } from "../types.ts";
import { decodeOpenSocket, encodeEnd, encodeSocketList, type OpenSocket, standingOf } from "./connections.ts";
import type { LocalAddress } from "./types.ts";
import {
  decodeUnredirected,
  encodeForget,
  encodeUsersTracked,
  type Unredirected,
  unredirectedTargets,
} from "./unredirected.ts";

/** The edge to the kernel's TCP sockets, by netlink: no process, no waiting. */

/** The node's TCP sockets, as the wall needs them. Tests replace it. */
export interface OpenSockets {
  /** Lists those that can still send. */
  list(family: Family): readonly OpenSocket[];
  /** Whether a connection to the metadata address goes to the proxy. */
  isProxied(socket: OpenSocket, spec: FirewallSpec): boolean;
  /** Ends one. Returns the kernel's error number; 0 where the socket no longer exists. */
  end(socket: OpenSocket): number;
  /** Lists users' tracked connections that do not lead to the proxy. */
  unredirected(spec: FirewallSpec): readonly Unredirected[];
  /** Deletes one. Returns the kernel's error number; 0 where it no longer exists. */
  forget(entry: Unredirected): number;
}

const ENOENT = 2;
const EINVAL = 22;

/** This machine's sockets. */
export class SockDiag implements OpenSockets {
  readonly #diag: NetlinkSocket;
  readonly #conntrack: NetlinkSocket;
  #sequence = 1;

  /**
   * @param open default: a socket of this machine.
   * @throws ImdsProxyError `missing` where the kernel lacks one of the two, or the process may not use AF_NETLINK.
   */
  constructor(open = (protocol: number, what: string): NetlinkSocket => new NetlinkSocket(protocol, what)) {
    this.#diag = open(NETLINK_SOCK_DIAG, "TCP sockets");
    try {
      this.#conntrack = open(NETLINK_NETFILTER, "tracked connections");
    } catch (error) {
      this.#diag.close();
      throw error;
    }
  }

  close(): void {
    this.#diag.close();
    this.#conntrack.close();
  }

  list(family: Family): readonly OpenSocket[] {
    const sequence = this.#sequence++;
    const request = encodeSocketList(family, sequence);
    return listed(this.#diag, request, sequence, decodeOpenSocket, (errno) => {
      throw new ImdsProxyError(
        "missing",
        `the kernel does not list TCP sockets (errno ${errno})`,
        "the kernel must have inet_diag and tcp_diag: modprobe tcp_diag",
      );
    });
  }

  unredirected(spec: FirewallSpec): readonly Unredirected[] {
    const decode = (message: ReadMessage) => decodeUnredirected(message, spec);
    return unredirectedTargets(spec).flatMap((target) => {
      const sequence = this.#sequence++;
      return listed(this.#conntrack, encodeUsersTracked(target, sequence), sequence, decode, (errno) => {
        throw new ImdsProxyError(
          "missing",
          `the kernel does not list tracked connections (errno ${errno})`,
          "the kernel must have nf_conntrack_netlink: modprobe nf_conntrack_netlink",
        );
      });
    });
  }

  isProxied({ family, tuple }: OpenSocket, spec: FirewallSpec): boolean {
    const { address, port } = redirectTarget(spec.listen, tuple.sourceAddress.length === 4 ? "ipv4" : family);
    const listener = parseAddress(address);
    if (listener === null) return false;
    // The proxy's socket has this tuple where nat did not change the source port. Where it did, the connection counts as unknown.
    const reply: Tuple = {
      sourceAddress: listener,
      sourcePort: port,
      destinationAddress: tuple.sourceAddress,
      destinationPort: tuple.sourcePort,
    };
    const sequence = this.#sequence++;
    while (this.#conntrack.receive() !== null);
    this.#conntrack.send(encodeConnectionRequest(reply, sequence));
    const datagram = this.#conntrack.receive();
    if (datagram === null) return false;
    const answer = readReply(datagram, sequence, this.#conntrack.portId);
    const entry = answer.kind === "message" ? decodeConnection(answer.payload) : null;
    return entry !== null && sameTuple(entry.reply, reply) && sameTuple(entry.original, tuple);
  }

  end(socket: OpenSocket): number {
    const sequence = this.#sequence++;
    return acknowledged(this.#diag, encodeEnd(socket, sequence), sequence);
  }

  forget(entry: Unredirected): number {
    const sequence = this.#sequence++;
    return acknowledged(this.#conntrack, encodeForget(entry, sequence), sequence);
  }
}

/** Sends a request for a list and decodes its objects. */
function listed<Found>(
  socket: NetlinkSocket,
  request: Uint8Array,
  sequence: number,
  decode: (message: ReadMessage) => Found | null,
  refused: (errno: number) => never,
): readonly Found[] {
  while (socket.receive() !== null);
  socket.send(request);
  const found: Found[] = [];
  for (let datagram = socket.receive(); datagram !== null; datagram = socket.receive()) {
    // The socket has one buffer.
    const copy = datagram.buffer.slice(datagram.byteOffset, datagram.byteOffset + datagram.byteLength);
    const part = readDumpPart(new DataView(copy as ArrayBuffer), sequence);
    if (part.kind === "error") refused(part.errno);
    // Where the list is interrupted or damaged, the complete entries of it are used.
    if (part.kind !== "objects") continue;
    found.push(...part.objects.map(decode).filter((one) => one !== null));
    if (part.done) break;
  }
  return found;
}

/** Sends a request that ends something. Returns the error number of its answer; 0 also where that no longer exists. */
function acknowledged(socket: NetlinkSocket, request: Uint8Array, sequence: number): number {
  while (socket.receive() !== null);
  socket.send(request);
  const datagram = socket.receive();
  const answer = datagram === null ? null : readBatchAnswer([datagram], sequence - 1, 1);
  if (answer === null) return EINVAL;
  const errno = answer.errors[0]?.errno ?? 0;
  // It ended by itself meanwhile.
  return answer.acknowledged || errno === ENOENT ? 0 : errno;
}

/** The result of ending the connections that users opened before the rules were applied. */
export interface Ended {
  readonly ended: number;
  /** A line for each thing that failed, with the reason. */
  readonly problems: readonly string[];
}

/**
 * Ends these connections, and deletes the entries of those that never led anywhere. Never throws, because the rules apply also
 * where this fails.
 */
export function endOldConnections(
  spec: FirewallSpec,
  families: readonly Family[],
  addresses: readonly LocalAddress[],
  open: () => OpenSockets & { close(): void } = () => new SockDiag(),
): Ended {
  let ended = 0;
  const problems: string[] = [];
  try {
    const sockets = open();
    try {
      for (const socket of families.flatMap((family) => sockets.list(family))) {
        const standing = standingOf(socket, spec, addresses);
        if (standing === "fine" || (standing === "metadata" && sockets.isProxied(socket, spec))) continue;
        const errno = sockets.end(socket);
        if (errno === 0) ended++;
        else problems.push(`${socketText(socket)} is still open (errno ${errno})`);
      }
      problems.push(...forgotten(sockets, spec));
    } finally {
      sockets.close();
    }
  } catch (error) {
    problems.push(error instanceof Error ? error.message : String(error));
  }
  return { ended, problems };
}

/** For people: `uid 1000, 10.0.0.5:40000 to 169.254.0.2:9081`. */
export function socketText({ uid, tuple }: OpenSocket): string {
  const end = (address: Uint8Array, port: number) => `${addressText(address)}:${port}`;
  return `uid ${uid}, ${end(tuple.sourceAddress, tuple.sourcePort)} to ${end(tuple.destinationAddress, tuple.destinationPort)}`;
}

/** Deletes the tracked connections that users began while the redirect was missing. Returns a line where that failed. */
function forgotten(sockets: OpenSockets, spec: FirewallSpec): readonly string[] {
  const errnos = sockets
    .unredirected(spec)
    .map((entry) => sockets.forget(entry))
    .filter((errno) => errno !== 0);
  return errnos.length === 0
    ? []
    : [`${errnos.length} tracked connections past the redirect are still there (errno ${errnos[0]})`];
}

/**
 * Deletes the tracked connections that users began while the redirect was missing. Never throws: what it leaves ends by itself, 120 s
 * after the last packet.
 */
export function forgetUnredirected(
  spec: FirewallSpec,
  open: () => OpenSockets & { close(): void } = () => new SockDiag(),
): void {
  try {
    const sockets = open();
    try {
      forgotten(sockets, spec);
    } finally {
      sockets.close();
    }
  } catch {
    // See above.
  }
}
