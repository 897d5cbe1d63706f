/**
 * The netlink message frame: struct nlmsghdr, struct nlmsgerr and attributes (linux/netlink.h).
 * Header fields are in host byte order, which is little-endian on every machine that we build for.
 */

/** NLMSG_HDRLEN: u32 nlmsg_len, u16 nlmsg_type, u16 nlmsg_flags, u32 nlmsg_seq, u32 nlmsg_pid. */
export const HEADER_LENGTH = 16;
/** NLM_F_REQUEST */
export const FLAG_REQUEST = 0x1;
/** NLMSG_ERROR: followed by i32 error (negative errno, 0 is an acknowledgement). */
const TYPE_ERROR = 2;

/** What the kernel answered to one request for one object. */
export type Reply =
  | { readonly kind: "message"; readonly type: number; readonly payload: DataView }
  /** The kernel refused; `errno` is positive, such as 2 for ENOENT. */
  | { readonly kind: "error"; readonly errno: number }
  /** A well-formed message that answers an earlier request: read on. */
  | { readonly kind: "stale" }
  /** Not a valid reply, and why. */
  | { readonly kind: "malformed"; readonly why: string };

/** NLA_TYPE_MASK: nla_type without the flags NLA_F_NESTED and NLA_F_NET_BYTEORDER. */
export const ATTRIBUTE_TYPE = 0x3fff;

/** NLMSG_ALIGN and NLA_ALIGN: both round up to 4. */
export const align = (length: number): number => (length + 3) & ~3;

/** Writes struct nlmsghdr at the start of `view`. */
export function writeHeader(
  view: DataView,
  type: number,
  flags: number,
  sequence: number,
  length: number,
): void {
  view.setUint32(0, length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, flags, true);
  view.setUint32(8, sequence, true);
  view.setUint32(12, 0, true); // nlmsg_pid: 0 lets the kernel fill in our port
}

/** Replaces nlmsg_seq. */
export const writeSequence = (view: DataView, sequence: number): void => view.setUint32(8, sequence, true);

/** Four bytes at an offset, such as an address; a copy. */
export function fourBytes(view: DataView, offset: number): Uint8Array {
  const bytes = new Uint8Array(4);
  bytes[0] = view.getUint8(offset);
  bytes[1] = view.getUint8(offset + 1);
  bytes[2] = view.getUint8(offset + 2);
  bytes[3] = view.getUint8(offset + 3);
  return bytes;
}

/**
 * Reads one datagram as the answer to one request for exactly one object. A second message in it is refused: two objects would be
 * ambiguous.
 *
 * @param sequence nlmsg_seq of the request.
 * @param portId nl_pid of our socket; the kernel addresses its answer to it.
 */
export function readReply(datagram: DataView, sequence: number, portId: number): Reply {
  if (datagram.byteLength < HEADER_LENGTH) return { kind: "malformed", why: "shorter than a header" };
  const length = datagram.getUint32(0, true);
  if (length < HEADER_LENGTH) return { kind: "malformed", why: "header length below minimum" };
  if (length > datagram.byteLength) return { kind: "malformed", why: "truncated" };
  if (align(length) < datagram.byteLength) return { kind: "malformed", why: "more than one message" };
  if (datagram.getUint32(12, true) !== portId)
    return { kind: "malformed", why: "addressed to another port id" };
  if (datagram.getUint32(8, true) !== sequence) return { kind: "stale" };
  const type = datagram.getUint16(4, true);
  if (type === TYPE_ERROR) {
    if (length < HEADER_LENGTH + 4) return { kind: "malformed", why: "error message without an errno" };
    const error = datagram.getInt32(HEADER_LENGTH, true);
    return error < 0
      ? { kind: "error", errno: -error }
      : { kind: "malformed", why: "acknowledgement instead of an answer" };
  }
  const payload = new DataView(datagram.buffer, datagram.byteOffset + HEADER_LENGTH, length - HEADER_LENGTH);
  return { kind: "message", type, payload };
}

/** Attributes by type. A view is made only of those that are read, because each connection costs five such walks. */
export class Attributes {
  readonly #view: DataView;
  readonly #types: number[] = [];
  readonly #offsets: number[] = [];
  readonly #lengths: number[] = [];

  constructor(view: DataView) {
    this.#view = view;
  }

  get size(): number {
    return this.#types.length;
  }

  /** Adds one; false where its type is there already. Offset and length are those of the payload. */
  add(type: number, offset: number, length: number): boolean {
    if (this.#types.includes(type)) return false;
    this.#types.push(type);
    this.#offsets.push(offset);
    this.#lengths.push(length);
    return true;
  }

  /** The payload, or undefined where there is no such attribute. */
  get(type: number): DataView | undefined {
    const index = this.#types.indexOf(type);
    const offset = this.#offsets[index];
    const length = this.#lengths[index];
    if (offset === undefined || length === undefined) return undefined;
    return new DataView(this.#view.buffer, this.#view.byteOffset + offset, length);
  }
}

/**
 * Walks attributes (struct nlattr: u16 nla_len, u16 nla_type) from `offset` to the end, by type without the flags
 * NLA_F_NESTED and NLA_F_NET_BYTEORDER; null where one overruns or repeats.
 */
export function readAttributes(view: DataView, offset: number): Attributes | null {
  const found = new Attributes(view);
  const end = view.byteLength;
  let at = offset;
  while (at < end) {
    if (at + 4 > end) return null;
    const length = view.getUint16(at, true);
    if (length < 4 || at + length > end) return null;
    if (!found.add(view.getUint16(at + 2, true) & ATTRIBUTE_TYPE, at + 4, length - 4)) return null;
    at += align(length);
  }
  return found;
}
