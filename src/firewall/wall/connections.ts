import { addressText, parseAddress, sameAddress } from "../../identity/address.ts";
import type { Endpoint } from "../../identity/endpoint.ts";
import { type DiagSocket, decodeSocket, SOCK_DIAG_BY_FAMILY } from "../../identity/netlink/inet-diag.ts";
import { FLAG_REQUEST, HEADER_LENGTH, writeHeader } from "../../identity/netlink/message.ts";
import { METADATA, sameEndpoint } from "../addresses.ts";
import type { ReadMessage } from "../nftables/batch.ts";
import { guardedEndpoints } from "../rules.ts";
import { FAMILIES, type Family, type FirewallSpec } from "../types.ts";
import { USERS_SOURCE } from "./tables.ts";
import type { LocalAddress } from "./types.ts";

/**
 * Connections that users opened before the rules were applied. The firewall's rules reset them at their next packet. But a
 * connection on which nothing is sent until the rules are flushed is never reset, and the second wall cannot stop it: the
 * kernel routes its packets by what nat did with the first one, without a uid (ip_route_me_harder). So `apply` ends them.
 *
 * The parts of NETLINK_SOCK_DIAG (linux/sock_diag.h, linux/inet_diag.h) that list and end TCP sockets. Pure.
 */

/** SOCK_DESTROY, since linux 4.5, with CONFIG_INET_DIAG_DESTROY. */
const SOCK_DESTROY = 21;
/** NLM_F_DUMP; NLM_F_ACK */
const DUMP = 0x300;
const ACK = 0x4;
const AF: Record<Family, number> = { ipv4: 2, ipv6: 10 };
const IPPROTO_TCP = 6;
/** The states in which a socket can still send, as bits: TCP_ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING (net/tcp_states.h). */
const OPEN_STATES = [1, 2, 4, 5, 8, 9, 11].reduce((bits, state) => bits | (1 << state), 0);
/** struct inet_diag_req_v2: u8 family, protocol, ext, pad, u32 states, struct inet_diag_sockid (48). */
const REQUEST_LENGTH = HEADER_LENGTH + 56;
/** struct inet_diag_sockid in struct inet_diag_msg, with the cookie that names this socket and no later one. */
const ID_OFFSET = 4;
const ID_LENGTH = 48;

/** A TCP socket of this node. */
export interface OpenSocket extends DiagSocket {
  readonly family: Family;
  /** struct inet_diag_sockid, as the kernel gave it. */
  readonly id: Uint8Array;
}

function request(
  type: number,
  flags: number,
  family: Family,
  sequence: number,
  id: Uint8Array | null,
): Uint8Array {
  const bytes = new Uint8Array(REQUEST_LENGTH);
  const view = new DataView(bytes.buffer);
  writeHeader(view, type, FLAG_REQUEST | flags, sequence, REQUEST_LENGTH);
  bytes[HEADER_LENGTH] = AF[family];
  bytes[HEADER_LENGTH + 1] = IPPROTO_TCP;
  view.setUint32(HEADER_LENGTH + 4, OPEN_STATES, true);
  if (id !== null) bytes.set(id, HEADER_LENGTH + 8);
  return bytes;
}

/** The request that lists all TCP sockets of a family that can still send. */
export const encodeSocketList = (family: Family, sequence: number): Uint8Array =>
  request(SOCK_DIAG_BY_FAMILY, DUMP, family, sequence, null);

/** The request that ends a socket: its owner gets ECONNABORTED, and the other end a reset. */
export const encodeEnd = ({ family, id }: OpenSocket, sequence: number): Uint8Array =>
  request(SOCK_DESTROY, ACK, family, sequence, id);

/** Parses one socket of the list; null for any other message. */
export function decodeOpenSocket({ type, payload }: ReadMessage): OpenSocket | null {
  if (type !== SOCK_DIAG_BY_FAMILY) return null;
  const socket = decodeSocket(payload);
  if (socket === null) return null;
  const at = payload.byteOffset + ID_OFFSET;
  return {
    ...socket,
    family: payload.getUint8(0) === AF.ipv6 ? "ipv6" : "ipv4",
    id: new Uint8Array(payload.buffer.slice(at, at + ID_LENGTH)),
  };
}

/** A user's connection: `old` cannot have been opened while the rules applied; `metadata` could only if it leads to the proxy. */
export type Standing = "fine" | "old" | "metadata";

/** Classifies a socket by where its connection leads, given the addresses of this node. */
export function standingOf(
  { uid, inode, tuple }: DiagSocket,
  spec: FirewallSpec,
  addresses: readonly LocalAddress[],
): Standing {
  // The kernel reports uid 0 for a socket without an owner. No process can send on it.
  if (inode === 0 || spec.exemptUids.includes(uid)) return "fine";
  const isTo = ({ address, port }: Endpoint) => {
    // The port first, because comparing it is cheap and most sockets have another one.
    if (tuple.destinationPort !== port) return false;
    const bytes = parseAddress(address);
    return bytes !== null && sameAddress(bytes, tuple.destinationAddress);
  };
  for (const family of FAMILIES) {
    for (const endpoint of guardedEndpoints(spec, family)) {
      if (!isTo(endpoint)) continue;
      if (!sameEndpoint(endpoint, METADATA[family])) return "old";
      // The second wall allows users no other source address, and from that one only the proxy can be reached.
      return addressText(tuple.sourceAddress) === USERS_SOURCE ? "fine" : "metadata";
    }
  }
  if (spec.localPorts?.includes(tuple.destinationPort) !== true) return "fine";
  const isHere =
    tuple.destinationAddress[0] === 127 ||
    addresses.some(({ address }) => isTo({ address, port: tuple.destinationPort }));
  return isHere ? "old" : "fine";
}
