import { sameAddress } from "./address.ts";
import { decodeConnection, encodeConnectionRequest, TYPE_NEW } from "./netlink/conntrack.ts";
import {
  type DiagSocket,
  decodeSocket,
  encodeSocketRequest,
  SOCK_DIAG_BY_FAMILY,
  sameTuple,
  type Tuple,
} from "./netlink/inet-diag.ts";
import { type Reply, readReply } from "./netlink/message.ts";

/**
 * Finds the owner of the socket at the other end of an accepted connection. The kernel is asked for that exact socket; any
 * other answer is a refusal.
 *
 * The peer that accept() reports is not always the caller's own address and port: NAT may have given the
 * connection another source port, because an attacker occupied the first choice with a connection of their own. So the
 * connection tracking entry comes first, and the socket is looked up by the original tuple alone.
 */

/** One request and its answer over a netlink socket; implemented at the edge. */
export interface NetlinkChannel {
  /** nl_pid of the socket. */
  readonly portId: number;
  /** Sends a request. @throws where the kernel does not take it. */
  send(request: Uint8Array): void;
  /** The next datagram from the kernel, or null where none is waiting. It is valid until the next call. */
  receive(): DataView | null;
}

/** One end of a connection. */
export interface SocketAddress {
  /** 4 or 16 bytes. */
  readonly address: Uint8Array;
  readonly port: number;
}

/** The caller's socket. */
export interface SocketOwner {
  readonly uid: number;
  readonly cgroupId: bigint | null;
  /** Whether the connection was addressed to the metadata service and redirected to us. */
  readonly redirected: boolean;
}

/** The outcome of a look-up; a refusal says why, for the log. */
export type Lookup =
  | { readonly kind: "owner"; readonly owner: SocketOwner }
  | {
      readonly kind: "refused";
      readonly why: string;
      /** The source address of a redirected connection that no socket of this node has: a container's. */
      readonly remote?: Uint8Array;
    };

/** The other end of a connection that we opened to an address of this node. */
export type Peer =
  /** A process with this uid has accepted it. */
  | { readonly kind: "accepted"; readonly uid: number }
  /** It waits in a listener's accept queue; no process has it yet. */
  | { readonly kind: "waiting" }
  /** The other end has been closed. */
  | { readonly kind: "closed" }
  /** No socket of this node is the other end. */
  | { readonly kind: "none" }
  /** The kernel gave no answer, or an inconsistent one. */
  | { readonly kind: "unknown"; readonly why: string };

/** Who listens at an address of this node. */
export type Listening =
  /** The inode tells one listening socket from the next at the same address. */
  | { readonly kind: "listener"; readonly uid: number; readonly inode: number }
  | { readonly kind: "none" }
  | { readonly kind: "unknown"; readonly why: string };

/** An accepted connection as accept() has it, from our side. */
export interface AcceptedConnection {
  readonly localAddress: Uint8Array;
  readonly localPort: number;
  readonly peerAddress: Uint8Array;
  readonly peerPort: number;
}

/** 169.254.169.254 and fd00:ec2::254, the addresses of the metadata service. */
const METADATA_IPV4 = Uint8Array.of(169, 254, 169, 254);
const METADATA_IPV6 = Uint8Array.of(0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54);
const METADATA_PORT = 80;

/** TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2: the caller is connected to us, or has finished sending. */
const LIVE_STATES = new Set([1, 4, 5]);
/** TCP_ESTABLISHED, TCP_SYN_RECV, TCP_CLOSE_WAIT: as a connection is before accept(); a closed one has left these states. */
const NOT_ACCEPTED_STATES = new Set([1, 3, 8]);
/** TCP_LISTEN */
const LISTEN = 10;
const ENOENT = 2;
/** (uid_t)-1 is nobody's uid. */
const INVALID_UID = 0xffffffff;
/** How many answers to earlier requests are skipped before the look-up fails. */
const STALE_LIMIT = 16;

const refused = (why: string): Lookup => ({ kind: "refused", why });

/** The look-up, over two netlink sockets that stay open. Synchronous, and therefore never re-entered. */
export class SocketLookup {
  readonly #diag: NetlinkChannel;
  readonly #conntrack: NetlinkChannel;
  #sequence = 1;
  /** Whether the kernel tracks connections in this namespace: then a connection without an entry has lost it. */
  #tracks = false;

  constructor(channels: { diag: NetlinkChannel; conntrack: NetlinkChannel }) {
    this.#diag = channels.diag;
    this.#conntrack = channels.conntrack;
  }

  /** Identifies the caller of one accepted connection. Never throws. */
  identify(connection: AcceptedConnection): Lookup {
    try {
      return this.#identify(connection);
    } catch (error) {
      return refused(`the kernel could not be asked: ${error instanceof Error ? error.message : "unknown"}`);
    }
  }

  #identify(connection: AcceptedConnection): Lookup {
    const reply: Tuple = {
      sourceAddress: connection.localAddress,
      sourcePort: connection.localPort,
      destinationAddress: connection.peerAddress,
      destinationPort: connection.peerPort,
    };
    const tracked = this.#ask(this.#conntrack, (sequence) => encodeConnectionRequest(reply, sequence));
    let tuple: Tuple;
    let redirected = false;
    if (tracked.kind === "message" && tracked.type === TYPE_NEW) {
      this.#tracks = true;
      const entry = decodeConnection(tracked.payload);
      if (entry === null) return refused("the connection tracking entry cannot be read");
      if (!sameTuple(entry.reply, reply))
        return refused("the connection tracking entry is of another connection");
      tuple = entry.original;
      redirected = isMetadata(tuple);
    } else if (tracked.kind === "error" && tracked.errno === ENOENT) {
      // The entry was evicted or flushed, so it is unknown whether the connection was redirected. An attacker's socket, left over
      // from a direct connection to us, may have the tuple that we see for the victim's connection.
      if (this.#tracks) return refused("connection tracking has lost the connection");
      // Without connection tracking there is no NAT: the tuple is the caller's own.
      tuple = {
        sourceAddress: connection.peerAddress,
        sourcePort: connection.peerPort,
        destinationAddress: connection.localAddress,
        destinationPort: connection.localPort,
      };
    } else {
      return refused(`connection tracking: ${replyText(tracked)}`);
    }
    const direct =
      tuple.destinationPort === connection.localPort &&
      sameAddress(tuple.destinationAddress, connection.localAddress);
    if (!redirected && !direct)
      return refused("the connection was addressed to neither the metadata service nor this proxy");

    const answer = this.#ask(this.#diag, (sequence) => encodeSocketRequest(tuple, sequence));
    if (answer.kind === "error" && answer.errno === ENOENT) {
      const why = "no socket of this node has the connection";
      return redirected ? { kind: "refused", why, remote: tuple.sourceAddress } : refused(why);
    }
    if (answer.kind !== "message" || answer.type !== SOCK_DIAG_BY_FAMILY)
      return refused(`sock_diag: ${replyText(answer)}`);
    const socket = decodeSocket(answer.payload);
    if (socket === null) return refused("the answer of sock_diag cannot be read");
    // The kernel's look-up falls back to a listener on the same port; only the exact tuple is the caller.
    if (!sameTuple(socket.tuple, tuple)) return refused("sock_diag answered with another socket");
    if (!LIVE_STATES.has(socket.state)) return refused(`the caller's socket is in TCP state ${socket.state}`);
    if (socket.inode === 0) return refused("the caller's socket has no owner any more");
    if (socket.uid === INVALID_UID) return refused("the caller's socket has an invalid uid");
    // nat leads root past the redirect, by the uid of whoever opened the socket's file. So somebody else opened this one: what the kernel
    // accepts below a listener of the family AF_SMC has root's uid (net/smc/af_smc.c, smc_tcp_listen_work).
    if (redirected && socket.uid === 0)
      return refused("the socket has root's uid, and was led here as only another user's is");
    return { kind: "owner", owner: { uid: socket.uid, cgroupId: socket.cgroupId, redirected } };
  }

  /**
   * The socket of this node that has the other end of a connection of ours.
   *
   * @param endpoint the address and port that we connected to.
   * @param local our own end.
   */
  peerOf(endpoint: SocketAddress, local: SocketAddress): Peer {
    const tuple: Tuple = {
      sourceAddress: endpoint.address,
      sourcePort: endpoint.port,
      destinationAddress: local.address,
      destinationPort: local.port,
    };
    const found = this.#socket(tuple);
    if (found === null) return { kind: "none" };
    if ("why" in found) return { kind: "unknown", why: found.why };
    // The kernel's look-up falls back to a listener on the same port; that is not the other end.
    if (!sameTuple(found.tuple, tuple)) return { kind: "none" };
    // A uid without an inode says nothing: before Linux 6.17 it reads 0 (sock_i_uid in net/core/sock.c), after that it is
    // the listener's.
    if (found.inode === 0) return { kind: NOT_ACCEPTED_STATES.has(found.state) ? "waiting" : "closed" };
    if (found.uid === INVALID_UID) return { kind: "unknown", why: "the socket has an invalid uid" };
    return { kind: "accepted", uid: found.uid };
  }

  /** The socket that would get the next connection to an address and port of this node. */
  listenerOf(endpoint: SocketAddress): Listening {
    const found = this.#socket({
      sourceAddress: endpoint.address,
      sourcePort: endpoint.port,
      destinationAddress: new Uint8Array(endpoint.address.length),
      destinationPort: 0,
    });
    if (found === null) return { kind: "none" };
    if ("why" in found) return { kind: "unknown", why: found.why };
    if (found.state !== LISTEN || found.inode === 0) return { kind: "none" };
    if (found.uid === INVALID_UID) return { kind: "unknown", why: "the socket has an invalid uid" };
    return { kind: "listener", uid: found.uid, inode: found.inode };
  }

  /** The kernel's answer for a tuple; null where it has no such socket, and a reason where it does not tell. */
  #socket(tuple: Tuple): DiagSocket | { readonly why: string } | null {
    let answer: Reply;
    try {
      answer = this.#ask(this.#diag, (sequence) => encodeSocketRequest(tuple, sequence));
    } catch (error) {
      return { why: `the kernel could not be asked: ${error instanceof Error ? error.message : "unknown"}` };
    }
    if (answer.kind === "error" && answer.errno === ENOENT) return null;
    if (answer.kind !== "message" || answer.type !== SOCK_DIAG_BY_FAMILY)
      return { why: `sock_diag: ${replyText(answer)}` };
    return decodeSocket(answer.payload) ?? { why: "the answer of sock_diag cannot be read" };
  }

  #ask(channel: NetlinkChannel, encode: (sequence: number) => Uint8Array): Reply {
    const sequence = this.#sequence;
    this.#sequence = (this.#sequence + 1) >>> 0 || 1;
    channel.send(encode(sequence));
    // The kernel answers these requests before sendto() returns.
    for (let read = 0; read < STALE_LIMIT; read++) {
      const datagram = channel.receive();
      if (datagram === null) return { kind: "malformed", why: "no answer" };
      const reply = readReply(datagram, sequence, channel.portId);
      if (reply.kind !== "stale") return reply;
    }
    return { kind: "malformed", why: "only answers to earlier requests" };
  }
}

const isMetadata = (tuple: Tuple): boolean =>
  tuple.destinationPort === METADATA_PORT &&
  (sameAddress(tuple.destinationAddress, METADATA_IPV4) ||
    sameAddress(tuple.destinationAddress, METADATA_IPV6));

function replyText(reply: Reply): string {
  switch (reply.kind) {
    case "error":
      return `errno ${reply.errno}`;
    case "malformed":
      return reply.why;
    case "stale":
      return "stale answer";
    case "message":
      return `unexpected message type ${reply.type}`;
  }
}
