import type { Tuple } from "../identity/netlink/inet-diag.ts";

/** Parses TCP segments in IP packets (RFC 791, RFC 8200, RFC 9293) of which only the beginning was captured. Pure. */

const PROTOCOL_TCP = 6;
/** IPv6 extension headers that have their length in the second byte: hop-by-hop, routing, destination options (RFC 8200). */
const EXTENSIONS = new Set([0, 43, 60]);
const MOST_EXTENSIONS = 8;

/** One TCP segment. */
export interface Segment {
  /** From the sender's side. */
  readonly tuple: Tuple;
  readonly sequence: number;
  readonly syn: boolean;
  /** Bytes of data in the whole segment, as the IP header has its length. */
  readonly dataLength: number;
  /** Those of them that are in the captured part. */
  readonly data: Uint8Array;
}

/** Parses a packet from its IP header on; null where it is no TCP segment, a later fragment, or too short for its headers. */
export function parsePacket(view: DataView): Segment | null {
  if (view.byteLength < 1) return null;
  const version = view.getUint8(0) >> 4;
  if (version === 4) return parseIPv4(view);
  return version === 6 ? parseIPv6(view) : null;
}

function parseIPv4(view: DataView): Segment | null {
  if (view.byteLength < 20) return null;
  const headerLength = 4 * (view.getUint8(0) & 0xf);
  const isLaterFragment = (view.getUint16(6, false) & 0x1fff) !== 0;
  if (headerLength < 20 || isLaterFragment || view.getUint8(9) !== PROTOCOL_TCP) return null;
  return parseTcp(view, headerLength, view.getUint16(2, false), [12, 16, 4]);
}

function parseIPv6(view: DataView): Segment | null {
  if (view.byteLength < 40) return null;
  const end = 40 + view.getUint16(4, false);
  let next = view.getUint8(6);
  let at = 40;
  for (let seen = 0; EXTENSIONS.has(next) && seen < MOST_EXTENSIONS; seen++) {
    if (at + 2 > view.byteLength) return null;
    next = view.getUint8(at);
    at += 8 * (view.getUint8(at + 1) + 1);
  }
  return next === PROTOCOL_TCP ? parseTcp(view, at, end, [8, 24, 16]) : null;
}

function parseTcp(
  view: DataView,
  at: number,
  end: number,
  [source, destination, size]: readonly [source: number, destination: number, size: number],
): Segment | null {
  if (at + 20 > view.byteLength) return null;
  const dataAt = at + 4 * (view.getUint8(at + 12) >> 4);
  if (dataAt < at + 20 || dataAt > end) return null;
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const address = (offset: number) => bytes.slice(offset, offset + size);
  return {
    tuple: {
      sourceAddress: address(source),
      sourcePort: view.getUint16(at, false),
      destinationAddress: address(destination),
      destinationPort: view.getUint16(at + 2, false),
    },
    sequence: view.getUint32(at + 4, false),
    syn: (view.getUint8(at + 13) & 0x12) === 0x02,
    dataLength: end - dataAt,
    data: bytes.subarray(Math.min(dataAt, bytes.length), Math.min(end, bytes.length)),
  };
}
