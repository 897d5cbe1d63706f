import type { Tuple } from "./inet-diag.ts";
import { FLAG_REQUEST, HEADER_LENGTH, readAttributes, writeHeader } from "./message.ts";

/**
 * NETLINK_NETFILTER, subsystem ctnetlink: one connection tracking entry by its reply tuple
 * (linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h).
 */

/** NETLINK_NETFILTER */
export const NETLINK_NETFILTER = 12;
/** NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET */
const TYPE_GET = (1 << 8) | 1;
/** NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW: what a GET is answered with. */
export const TYPE_NEW = 1 << 8;

const AF_INET = 2;
const AF_INET6 = 10;
const IPPROTO_TCP = 6;
const NLA_F_NESTED = 0x8000;
/** struct nfgenmsg: u8 family, u8 version, __be16 res_id */
const GENERIC_LENGTH = 4;

// enum ctattr_type, ctattr_tuple, ctattr_ip, ctattr_l4proto
const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
const CTA_IP_V4_SRC = 1;
const CTA_IP_V4_DST = 2;
const CTA_IP_V6_SRC = 3;
const CTA_IP_V6_DST = 4;
const CTA_PROTO_NUM = 1;
const CTA_PROTO_SRC_PORT = 2;
const CTA_PROTO_DST_PORT = 3;

/** Both directions of a tracked connection. */
export interface TrackedConnection {
  /** As the caller's socket has it, before any translation. */
  readonly original: Tuple;
  /** As the answers are: from our listener to the peer that accept() reported. */
  readonly reply: Tuple;
}

/** Encodes the request for the entry whose reply direction is `reply`. */
export function encodeConnectionRequest(reply: Tuple, sequence: number): Uint8Array {
  const size = reply.sourceAddress.length;
  const ipLength = 4 + 2 * (4 + size);
  const protoLength = 4 + 8 + 8 + 8;
  const tupleLength = 4 + ipLength + protoLength;
  const length = HEADER_LENGTH + GENERIC_LENGTH + tupleLength;
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  writeHeader(view, TYPE_GET, FLAG_REQUEST, sequence, length);
  bytes[HEADER_LENGTH] = size === 4 ? AF_INET : AF_INET6;
  let at = HEADER_LENGTH + GENERIC_LENGTH;
  const attribute = (type: number, payloadLength: number): void => {
    view.setUint16(at, 4 + payloadLength, true);
    view.setUint16(at + 2, type, true);
    at += 4;
  };
  const address = (type: number, value: Uint8Array): void => {
    attribute(type, size);
    bytes.set(value, at);
    at += size;
  };
  const port = (type: number, value: number): void => {
    attribute(type, 2);
    view.setUint16(at, value, false);
    at += 4;
  };
  attribute(CTA_TUPLE_REPLY | NLA_F_NESTED, tupleLength - 4);
  attribute(CTA_TUPLE_IP | NLA_F_NESTED, ipLength - 4);
  address(size === 4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, reply.sourceAddress);
  address(size === 4 ? CTA_IP_V4_DST : CTA_IP_V6_DST, reply.destinationAddress);
  attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, protoLength - 4);
  attribute(CTA_PROTO_NUM, 1);
  bytes[at] = IPPROTO_TCP;
  at += 4;
  port(CTA_PROTO_SRC_PORT, reply.sourcePort);
  port(CTA_PROTO_DST_PORT, reply.destinationPort);
  return bytes;
}

/** Decodes an entry; null where either direction is missing or is not TCP. */
export function decodeConnection(payload: DataView): TrackedConnection | null {
  if (payload.byteLength < GENERIC_LENGTH) return null;
  const attributes = readAttributes(payload, GENERIC_LENGTH);
  const original = decodeTuple(attributes?.get(CTA_TUPLE_ORIG));
  const reply = decodeTuple(attributes?.get(CTA_TUPLE_REPLY));
  return original === null || reply === null ? null : { original, reply };
}

function decodeTuple(view: DataView | undefined): Tuple | null {
  if (view === undefined) return null;
  const parts = readAttributes(view, 0);
  const ipView = parts?.get(CTA_TUPLE_IP);
  const protoView = parts?.get(CTA_TUPLE_PROTO);
  const ip = ipView === undefined ? null : readAttributes(ipView, 0);
  const proto = protoView === undefined ? null : readAttributes(protoView, 0);
  if (!ip || !proto) return null;
  const sourceAddress = bytesOf(ip.get(CTA_IP_V4_SRC), 4) ?? bytesOf(ip.get(CTA_IP_V6_SRC), 16);
  const destinationAddress = bytesOf(ip.get(CTA_IP_V4_DST), 4) ?? bytesOf(ip.get(CTA_IP_V6_DST), 16);
  const sourcePort = proto.get(CTA_PROTO_SRC_PORT);
  const destinationPort = proto.get(CTA_PROTO_DST_PORT);
  const number = proto.get(CTA_PROTO_NUM);
  if (sourceAddress === null || destinationAddress === null) return null;
  if (sourceAddress.length !== destinationAddress.length) return null;
  if (number?.byteLength !== 1 || number.getUint8(0) !== IPPROTO_TCP) return null;
  if (sourcePort?.byteLength !== 2 || destinationPort?.byteLength !== 2) return null;
  return {
    sourceAddress,
    sourcePort: sourcePort.getUint16(0, false),
    destinationAddress,
    destinationPort: destinationPort.getUint16(0, false),
  };
}

const bytesOf = (view: DataView | undefined, size: number): Uint8Array | null =>
  view?.byteLength === size
    ? new Uint8Array(view.buffer.slice(view.byteOffset, view.byteOffset + size))
    : null;
