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
import { readBatchAnswer, readDumpPart } from "../nftables/batch.ts";
import type { Family, FirewallSpec } from "../types.ts";
import { decodeOpenSocket, encodeEnd, encodeSocketList, type OpenSocket, standingOf } from "./connections.ts";
import type { LocalAddress } from "./types.ts";

/** The edge to the kernel's TCP sockets, by netlink: no process, no waiting. */

/** The node's TCP sockets, as the wall needs them. Tests replace it. */
export interface OpenSockets {
  /** Lists those that can still send. */
  list(family: Family): readonly OpenSocket[];
  /** Whether a connection to the metadata address goes to the proxy. */
  isProxied(socket: OpenSocket, spec: FirewallSpec): boolean;
  /** Ends one. Returns the kernel's error number; 0 where the socket no longer exists. */
  end(socket: OpenSocket): number;
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
    while (this.#diag.receive() !== null);
    this.#diag.send(encodeSocketList(family, sequence));
    const found: OpenSocket[] = [];
    for (let datagram = this.#diag.receive(); datagram !== null; datagram = this.#diag.receive()) {
      // The socket has one buffer.
      const copy = datagram.buffer.slice(datagram.byteOffset, datagram.byteOffset + datagram.byteLength);
      const part = readDumpPart(new DataView(copy as ArrayBuffer), sequence);
      if (part.kind === "error") {
        throw new ImdsProxyError(
          "missing",
          `the kernel does not list TCP sockets (errno ${part.errno})`,
          "the kernel must have inet_diag and tcp_diag: modprobe tcp_diag",
        );
      }
      // Where the list is interrupted or damaged, the complete entries of it are used.
      if (part.kind !== "objects") continue;
      found.push(...part.objects.map(decodeOpenSocket).filter((one) => one !== null));
      if (part.done) break;
    }
    return found;
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
    while (this.#diag.receive() !== null);
    this.#diag.send(encodeEnd(socket, sequence));
    const datagram = this.#diag.receive();
    const answer = datagram === null ? null : readBatchAnswer([datagram], sequence - 1, 1);
    if (answer === null) return EINVAL;
    const errno = answer.errors[0]?.errno ?? 0;
    // The socket closed by itself meanwhile.
    return answer.acknowledged || errno === ENOENT ? 0 : errno;
  }
}

/** The result of ending the connections that users opened before the rules were applied. */
export interface Ended {
  readonly ended: number;
  /** A line for each thing that failed, with the reason. */
  readonly problems: readonly string[];
}

/** Ends these connections. Never throws, because the rules apply also where this fails. */
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
