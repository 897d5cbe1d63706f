import { align } from "../../identity/netlink/message.ts";

/**
 * Netlink attributes (struct nlattr in linux/netlink.h: u16 nla_len, u16 nla_type, payload, padding to 4) as a tree, to and
 * from bytes. Numbers in nf_tables messages are big-endian (include/uapi/linux/netfilter/nf_tables.h: NLA_U32 by
 * `ntohl`), unlike the headers. Pure.
 */

/** NLA_F_NESTED: the payload is attributes again. */
const NESTED = 0x8000;
/** NLA_HDRLEN */
const HEADER = 4;
/** The most that u16 nla_len can say, its own header included. */
const MOST = 0xffff;

/** One attribute: bytes, or the attributes inside of it. */
export interface Attribute {
  readonly type: number;
  readonly value: Uint8Array | readonly Attribute[];
}

/** Bytes as they are. */
export const bytes = (type: number, value: Uint8Array): Attribute => ({ type, value });

/** A text, ended by a NUL as NLA_STRING and NLA_NUL_STRING want it. */
export const text = (type: number, value: string): Attribute => ({ type, value: Buffer.from(`${value}\0`) });

/** A big-endian u32. */
export function u32(type: number, value: number): Attribute {
  const buffer = new Uint8Array(4);
  new DataView(buffer.buffer).setUint32(0, value, false);
  return { type, value: buffer };
}

/** A u32 in host byte order, as a few attributes have it (nla_get_u32). */
export function hostU32(type: number, value: number): Attribute {
  const buffer = new Uint8Array(4);
  new DataView(buffer.buffer).setUint32(0, value, true);
  return { type, value: buffer };
}

/** A big-endian u64. */
export function u64(type: number, value: bigint): Attribute {
  const buffer = new Uint8Array(8);
  new DataView(buffer.buffer).setBigUint64(0, value, false);
  return { type, value: buffer };
}

/** Attributes inside an attribute. */
export const nest = (type: number, ...value: readonly Attribute[]): Attribute => ({ type, value });

/** The length of the attributes with their padding. */
function lengthOf(attributes: readonly Attribute[]): number {
  return attributes.reduce((sum, { value }) => sum + HEADER + align(sizeOf(value)), 0);
}

const sizeOf = (value: Attribute["value"]): number =>
  value instanceof Uint8Array ? value.length : lengthOf(value);

/** @throws RangeError where an attribute is longer than u16 nla_len can say. */
export function encodeAttributes(attributes: readonly Attribute[]): Uint8Array {
  const out = new Uint8Array(lengthOf(attributes));
  const view = new DataView(out.buffer);
  let at = 0;
  for (const { type, value } of attributes) {
    const size = sizeOf(value);
    if (HEADER + size > MOST) throw new RangeError(`a netlink attribute of ${size} bytes: the most is 65531`);
    const isNest = !(value instanceof Uint8Array);
    view.setUint16(at, HEADER + size, true);
    view.setUint16(at + 2, isNest ? type | NESTED : type, true);
    out.set(isNest ? encodeAttributes(value) : value, at + HEADER);
    at += HEADER + align(size);
  }
  return out;
}

/** An attribute as it was read: its type without flags, and its payload. */
export interface ReadAttribute {
  readonly type: number;
  readonly payload: DataView;
}

/**
 * Walks attributes in their order, repeated types included (lists repeat NFTA_LIST_ELEM); null where one overruns.
 * `readAttributes` of identity/netlink/message.ts is the stricter one, for messages in which no type repeats.
 */
export function walkAttributes(view: DataView, offset = 0): ReadAttribute[] | null {
  const found: ReadAttribute[] = [];
  let at = offset;
  while (at < view.byteLength) {
    if (at + HEADER > view.byteLength) return null;
    const length = view.getUint16(at, true);
    if (length < HEADER || at + length > view.byteLength) return null;
    found.push({
      // NLA_TYPE_MASK: without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
      type: view.getUint16(at + 2, true) & 0x3fff,
      payload: new DataView(view.buffer, view.byteOffset + at + HEADER, length - HEADER),
    });
    at += align(length);
  }
  return found;
}

/** The payload of the first attribute of a type, or undefined. */
export const find = (attributes: readonly ReadAttribute[], type: number): DataView | undefined =>
  attributes.find((attribute) => attribute.type === type)?.payload;

/** A payload's own bytes, copied. */
export const bytesOf = (payload: DataView): Uint8Array =>
  new Uint8Array(
    payload.buffer.slice(payload.byteOffset, payload.byteOffset + payload.byteLength) as ArrayBuffer,
  );

/** A text without the NUL at its end. */
export const textOf = (payload: DataView): string =>
  Buffer.from(bytesOf(payload)).toString("latin1").replace(/\0.*$/s, "");

/** A big-endian u32; null where the payload is not one. */
export const u32Of = (payload: DataView | undefined): number | null =>
  payload?.byteLength === 4 ? payload.getUint32(0, false) : null;

/** A big-endian u64; null where the payload is not one. */
export const u64Of = (payload: DataView | undefined): bigint | null =>
  payload?.byteLength === 8 ? payload.getBigUint64(0, false) : null;
