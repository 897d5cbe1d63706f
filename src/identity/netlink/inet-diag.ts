import { sameAddress, unmapped } from "../address.ts";
import {
  FLAG_REQUEST,
  fourBytes,
  HEADER_LENGTH,
  readAttributes,
  writeHeader,
  writeSequence,
} from "./message.ts";

/**
 * NETLINK_SOCK_DIAG for one TCP socket (linux/sock_diag.h, linux/inet_diag.h).
 */

/** NETLINK_SOCK_DIAG */
export const NETLINK_SOCK_DIAG = 4;
/** SOCK_DIAG_BY_FAMILY: the type of the request and of its answer. */
export const SOCK_DIAG_BY_FAMILY = 20;

const AF_INET = 2;
const AF_INET6 = 10;
const IPPROTO_TCP = 6;
/** The loopback interface has index 1 in every network namespace (net/core/dev.c, LOOPBACK_IFINDEX). */
const LOOPBACK_IFINDEX = 1;
/** struct inet_diag_req_v2: u8 family, u8 protocol, u8 ext, u8 pad, u32 states, struct inet_diag_sockid (48). */
const REQUEST_LENGTH = HEADER_LENGTH + 56;
/** struct inet_diag_msg: u8 family, u8 state, u8 timer, u8 retrans, sockid (48), u32 expires, rqueue, wqueue, uid, inode. */
const MESSAGE_LENGTH = 72;
/** INET_DIAG_CGROUP_ID: u64, linux 5.7 */
const ATTRIBUTE_CGROUP_ID = 21;

/** A TCP connection from the side of the socket that is looked for. */
export interface Tuple {
  /** The socket's own end: 4 or 16 bytes. Both addresses have the same family. */
  readonly sourceAddress: Uint8Array;
  readonly sourcePort: number;
  /** The other end. */
  readonly destinationAddress: Uint8Array;
  readonly destinationPort: number;
}

/** What inet_diag says of a socket. */
export interface DiagSocket {
  /** TCP state: 1 ESTABLISHED, 4 FIN_WAIT1, 5 FIN_WAIT2, 6 TIME_WAIT, 10 LISTEN, … (net/tcp_states.h). */
  readonly state: number;
  readonly uid: number;
  /** 0 for a socket that no file refers to any more, whatever the uid says. */
  readonly inode: number;
  /** Id of the socket's cgroup v2, or null where the kernel does not say. */
  readonly cgroupId: bigint | null;
  /** The socket's own view of the connection, IPv4-mapped addresses as IPv4. */
  readonly tuple: Tuple;
}

/**
 * Encodes the request for exactly one socket.
 *
 * The interface is loopback's: a connection between two sockets of one machine runs over it, so the kernel finds the
 * socket to which it would deliver our answer. With interface 0 a socket that its owner bound to a device would not be
 * found, while another's, with the same addresses and ports but not bound, would (inet_match in net/inet_hashtables.h).
 *
 * @param interfaceIndex another interface, for a connection that leaves the machine; default loopback's.
 * @returns bytes that are valid until the next call.
 */
export function encodeSocketRequest(
  tuple: Tuple,
  sequence: number,
  interfaceIndex: number = LOOPBACK_IFINDEX,
): Uint8Array {
  const size = tuple.sourceAddress.length;
  writeSequence(requestView, sequence);
  requestBytes[HEADER_LENGTH] = size === 4 ? AF_INET : AF_INET6;
  requestView.setUint16(SOCKET_ID, tuple.sourcePort, false); // __be16 idiag_sport
  requestView.setUint16(SOCKET_ID + 2, tuple.destinationPort, false); // __be16 idiag_dport
  // __be32 idiag_src[4], idiag_dst[4]: an address of IPv4 is the first of the four.
  if (size === 4) requestBytes.fill(0, SOCKET_ID + 4, SOCKET_ID + 36);
  requestBytes.set(tuple.sourceAddress, SOCKET_ID + 4);
  requestBytes.set(tuple.destinationAddress, SOCKET_ID + 20);
  requestView.setUint32(SOCKET_ID + 36, interfaceIndex, true); // __u32 idiag_if
  return requestBytes;
}

/** Where struct inet_diag_sockid begins in a request. */
const SOCKET_ID = HEADER_LENGTH + 8;
/** The request, prepared once. Each look-up writes the parts that differ. */
const requestBytes = new Uint8Array(new ArrayBuffer(REQUEST_LENGTH));
const requestView = new DataView(requestBytes.buffer);
writeHeader(requestView, SOCK_DIAG_BY_FAMILY, FLAG_REQUEST, 0, REQUEST_LENGTH);
requestBytes[HEADER_LENGTH + 1] = IPPROTO_TCP;
requestView.setUint32(HEADER_LENGTH + 4, 0xffffffff, true); // idiag_states: not looked at in an exact request
requestView.setUint32(SOCKET_ID + 40, 0xffffffff, true); // INET_DIAG_NOCOOKIE
requestView.setUint32(SOCKET_ID + 44, 0xffffffff, true);

/** Decodes struct inet_diag_msg and its attributes; null where it is none. */
export function decodeSocket(payload: DataView): DiagSocket | null {
  if (payload.byteLength < MESSAGE_LENGTH) return null;
  const family = payload.getUint8(0);
  if (family !== AF_INET && family !== AF_INET6) return null;
  const attributes = readAttributes(payload, MESSAGE_LENGTH);
  if (attributes === null) return null;
  const cgroup = attributes.get(ATTRIBUTE_CGROUP_ID);
  if (cgroup !== undefined && cgroup.byteLength !== 8) return null;
  const address = (offset: number) =>
    family === AF_INET
      ? fourBytes(payload, offset)
      : unmapped(
          new Uint8Array(payload.buffer.slice(payload.byteOffset + offset, payload.byteOffset + offset + 16)),
        );
  return {
    state: payload.getUint8(1),
    tuple: {
      sourcePort: payload.getUint16(4, false),
      destinationPort: payload.getUint16(6, false),
      sourceAddress: address(8),
      destinationAddress: address(24),
    },
    uid: payload.getUint32(64, true),
    inode: payload.getUint32(68, true),
    cgroupId: cgroup === undefined ? null : cgroup.getBigUint64(0, true),
  };
}

/** Whether two tuples are the same in all four parts. */
export const sameTuple = (a: Tuple, b: Tuple): boolean =>
  a.sourcePort === b.sourcePort &&
  a.destinationPort === b.destinationPort &&
  sameAddress(a.sourceAddress, b.sourceAddress) &&
  sameAddress(a.destinationAddress, b.destinationAddress);
