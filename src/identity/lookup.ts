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
 * Whose socket is at the other end of an accepted connection: asked of the kernel for that exact socket, or refused.
 *
 * The peer that accept() reports is not always the caller's own address and port: a translation may have given the
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

/** The outcome of a look-up. A refusal says why in words for the log; there is no third way. */
export type Lookup =
  | { readonly kind: "owner"; readonly owner: SocketOwner }
  | {
      readonly kind: "refused";
      readonly why: string;
      /** Set where the connection was redirected to us and no socket of this node has it: from where it came. */
      readonly remote?: Uint8Array;
    };

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

/** TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2: a caller who is connected to us, or has sent all it wants to. */
const LIVE_STATES = new Set([1, 4, 5]);
/** TCP_LISTEN */
const LISTEN = 10;
const ENOENT = 2;
/** (uid_t)-1 is nobody's uid. */
const INVALID_UID = 0xffffffff;
/** How many answers to earlier requests are read over before we give up. */
const STALE_LIMIT = 16;

const refused = (why: string): Lookup => ({ kind: "refused", why });

/** The exact look-up, over two netlink sockets that it keeps. Not re-entrant, and need not be: it is synchronous. */
export class SocketLookup {
  readonly #diag: NetlinkChannel;
  readonly #conntrack: NetlinkChannel;
  #sequence = 1;
  /** Whether the kernel tracks connections here: then one without an entry has lost it. */
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
      // An entry that was evicted or flushed says nothing of the connection: it may have been redirected, and an attacker's
      // socket, left over from a connection straight to us, may have the tuple that the victim's has as we see it.
      if (this.#tracks) return refused("connection tracking has lost the connection");
      // Nothing is tracked here, hence nothing translated.
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
    return { kind: "owner", owner: { uid: socket.uid, cgroupId: socket.cgroupId, redirected } };
  }

  /**
   * Who answers on this node at an address and port: the uid of the socket that has the connection to `peer`, or, without
   * a peer or where that socket has no owner any more, of the one that listens there.
   *
   * @returns null where no socket of this node does, or where nobody can say whose it is.
   */
  answererOf(endpoint: SocketAddress, peer: SocketAddress | null): number | null {
    const at = { sourceAddress: endpoint.address, sourcePort: endpoint.port };
    try {
      if (peer !== null) {
        const tuple = { ...at, destinationAddress: peer.address, destinationPort: peer.port };
        const connected = this.#socket(tuple);
        if (connected !== null && sameTuple(connected.tuple, tuple) && connected.inode !== 0)
          return connected.uid;
      }
      const none = new Uint8Array(endpoint.address.length);
      const listener = this.#socket({ ...at, destinationAddress: none, destinationPort: 0 });
      return listener === null || listener.state !== LISTEN || listener.inode === 0 ? null : listener.uid;
    } catch {
      return null;
    }
  }

  #socket(tuple: Tuple): DiagSocket | null {
    const answer = this.#ask(this.#diag, (sequence) => encodeSocketRequest(tuple, sequence));
    return answer.kind === "message" && answer.type === SOCK_DIAG_BY_FAMILY
      ? decodeSocket(answer.payload)
      : null;
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
