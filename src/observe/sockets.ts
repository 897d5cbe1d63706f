import {
  type DiagSocket,
  decodeSocket,
  encodeSocketRequest,
  SOCK_DIAG_BY_FAMILY,
  sameTuple,
  type Tuple,
} from "../identity/netlink/inet-diag.ts";
import { readReply } from "../identity/netlink/message.ts";

/** One request and its answer over a netlink socket; `NetlinkSocket` is one. */
export interface DiagChannel {
  readonly portId: number;
  send(request: Uint8Array): void;
  receive(): DataView | null;
}

/** Answers to earlier requests that are skipped. */
const MOST_STALE = 16;
const LOOPBACK = 1;

/**
 * Finds the socket that sends from a tuple. Unlike the proxy's look-up (identity/lookup.ts) it decides nothing: no answer, or an
 * answer about another socket, is null.
 */
export class SenderSockets {
  readonly #channel: DiagChannel;
  #sequence = 1;

  constructor(channel: DiagChannel) {
    this.#channel = channel;
  }

  /** @param outInterface the interface that the packet leaves by, for sockets that are bound to one. */
  find(tuple: Tuple, outInterface: number | null): DiagSocket | null {
    const sequence = this.#sequence;
    this.#sequence = (this.#sequence + 1) >>> 0 || 1;
    try {
      this.#channel.send(encodeSocketRequest(tuple, sequence, outInterface ?? LOOPBACK));
      for (let read = 0; read < MOST_STALE; read++) {
        const datagram = this.#channel.receive();
        if (datagram === null) return null;
        const reply = readReply(datagram, sequence, this.#channel.portId);
        if (reply.kind === "stale") continue;
        if (reply.kind !== "message" || reply.type !== SOCK_DIAG_BY_FAMILY) return null;
        const socket = decodeSocket(reply.payload);
        return socket !== null && socket.inode !== 0 && sameTuple(socket.tuple, tuple) ? socket : null;
      }
    } catch {
      // The kernel did not take the request: nothing is known of this socket.
    }
    return null;
  }
}
