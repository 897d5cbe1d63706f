import { align, FLAG_REQUEST, HEADER_LENGTH, writeHeader } from "../../identity/netlink/message.ts";
import { type Attribute, bytes, encodeAttributes, nest, text, u32, walkAttributes } from "./attributes.ts";
import { EXPR, NFTA_LIST_ELEM } from "./names.ts";

/**
 * nf_tables messages: struct nlmsghdr, struct nfgenmsg (u8 nfgen_family, u8 version, __be16 res_id), attributes. Changes are
 * sent in a batch, which the kernel applies as one transaction (net/netfilter/nfnetlink.c, nfnetlink_rcv_batch). Pure.
 */

/** NFNL_SUBSYS_NFTABLES */
const SUBSYSTEM = 10;
/** NFNL_MSG_BATCH_BEGIN and NFNL_MSG_BATCH_END: below NLMSG_MIN_TYPE, hence of no subsystem. */
const BATCH_BEGIN = 0x10;
const BATCH_END = 0x11;
/** NFNL_BATCH_GENID: the batch fails with ERESTART where the rule set is of another generation by then. */
const BATCH_GENID = 1;
/** struct nfgenmsg */
const GENERIC_LENGTH = 4;
/** NLMSG_ERROR, NLMSG_DONE, and the flag of a dump that a change interrupted (NLM_F_DUMP_INTR). */
const TYPE_ERROR = 2;
const TYPE_DONE = 3;
const FLAG_DUMP_INTERRUPTED = 0x10;

/** Flags of a message, beside NLM_F_REQUEST which is always set (linux/netlink.h). */
export const FLAG = {
  /** NLM_F_ACK */
  ACK: 0x4,
  /** NLM_F_DUMP: NLM_F_ROOT | NLM_F_MATCH */
  DUMP: 0x300,
  /** NLM_F_REPLACE, NLM_F_EXCL (EEXIST for what exists), NLM_F_CREATE, NLM_F_APPEND (a rule at the chain's end, else at its head). */
  REPLACE: 0x100,
  EXCL: 0x200,
  CREATE: 0x400,
  APPEND: 0x800,
} as const;

/** One message of a batch, or a request by itself. */
export interface NftMessage {
  /** One of MSG in names.ts. */
  readonly command: number;
  /** NFPROTO of the table. */
  readonly family: number;
  /** FLAG.CREATE and the like; NLM_F_REQUEST is added. */
  readonly flags: number;
  readonly attributes: readonly Attribute[];
}

/** A message of NETLINK_NETFILTER: type, flags beside NLM_F_REQUEST, sequence, struct nfgenmsg, attributes. */
export function encodeMessage(
  type: number,
  flags: number,
  sequence: number,
  generic: { family: number; resource: number },
  attributes: readonly Attribute[],
): Uint8Array {
  const payload = encodeAttributes(attributes);
  const length = HEADER_LENGTH + GENERIC_LENGTH + payload.length;
  const out = new Uint8Array(align(length));
  const view = new DataView(out.buffer);
  writeHeader(view, type, FLAG_REQUEST | flags, sequence, length);
  out[HEADER_LENGTH] = generic.family;
  view.setUint16(HEADER_LENGTH + 2, generic.resource, false);
  out.set(payload, HEADER_LENGTH + GENERIC_LENGTH);
  return out;
}

/** A request by itself: FLAG.DUMP for all objects, else one. */
export const encodeRequest = (message: NftMessage, sequence: number): Uint8Array =>
  encodeMessage(
    (SUBSYSTEM << 8) | message.command,
    message.flags,
    sequence,
    { family: message.family, resource: 0 },
    message.attributes,
  );

/**
 * A transaction. Message i has the sequence `sequence + 1 + i`; the begin has `sequence`, the end the last. Only the last
 * message asks for an acknowledgement: errors come without being asked for, and a thousand acknowledgements would overrun
 * the socket's buffer (ENOBUFS).
 *
 * @param generation NFTA_GEN_ID that the batch was planned for; null where it may be any.
 */
export function encodeBatch(
  messages: readonly NftMessage[],
  sequence: number,
  generation: number | null = null,
): Uint8Array {
  const frame = { family: 0, resource: SUBSYSTEM };
  const parts = [
    encodeMessage(BATCH_BEGIN, 0, sequence, frame, generation === null ? [] : [u32(BATCH_GENID, generation)]),
    ...messages.map((message, i) =>
      encodeRequest(
        { ...message, flags: message.flags | (i === messages.length - 1 ? FLAG.ACK : 0) },
        sequence + 1 + i,
      ),
    ),
    encodeMessage(BATCH_END, 0, sequence + 1 + messages.length, frame, []),
  ];
  return Buffer.concat(parts);
}

/** A message of a datagram. */
export interface ReadMessage {
  /** nlmsg_type: NFNL_SUBSYS_NFTABLES << 8 | command, or one of netlink's own. */
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  /** All after struct nlmsghdr. */
  readonly payload: DataView;
}

/** The messages of one datagram; null where it is damaged. */
export function readMessages(datagram: DataView): ReadMessage[] | null {
  const found: ReadMessage[] = [];
  let at = 0;
  while (at < datagram.byteLength) {
    if (at + HEADER_LENGTH > datagram.byteLength) return null;
    const length = datagram.getUint32(at, true);
    if (length < HEADER_LENGTH || at + length > datagram.byteLength) return null;
    found.push({
      type: datagram.getUint16(at + 4, true),
      flags: datagram.getUint16(at + 6, true),
      sequence: datagram.getUint32(at + 8, true),
      payload: new DataView(
        datagram.buffer,
        datagram.byteOffset + at + HEADER_LENGTH,
        length - HEADER_LENGTH,
      ),
    });
    at += align(length);
  }
  return found;
}

/** Whether a message is of nf_tables, and which. */
export const commandOf = ({ type }: ReadMessage): number | null =>
  type >> 8 === SUBSYSTEM ? type & 0xff : null;

/** The family and the attributes of an nf_tables message; null where it is damaged. */
export function readBody({ payload }: ReadMessage) {
  if (payload.byteLength < GENERIC_LENGTH) return null;
  const attributes = walkAttributes(payload, GENERIC_LENGTH);
  return attributes === null ? null : { family: payload.getUint8(0), attributes };
}

/** An error of one message of a batch. */
export interface BatchError {
  /** The message's place in the batch, from 0; -1 for the batch as a whole (its begin, its commit). */
  readonly index: number;
  /** Positive, such as 2 for ENOENT, 85 for ERESTART. */
  readonly errno: number;
}

/** The kernel's answers to a batch so far. */
export interface BatchAnswer {
  /** True where the last message was acknowledged: with no errors the transaction is done. */
  readonly acknowledged: boolean;
  readonly errors: readonly BatchError[];
}

/** Parses the datagrams that answer a batch. Messages with other sequence numbers are ignored. */
export function readBatchAnswer(
  datagrams: readonly DataView[],
  sequence: number,
  count: number,
): BatchAnswer {
  let acknowledged = false;
  const errors: BatchError[] = [];
  for (const message of datagrams.flatMap((datagram) => readMessages(datagram) ?? [])) {
    const index = message.sequence - sequence - 1;
    if (message.type !== TYPE_ERROR || message.payload.byteLength < 4 || index < -1 || index > count)
      continue;
    const errno = -message.payload.getInt32(0, true);
    if (errno !== 0) errors.push({ index: index === count ? -1 : index, errno });
    else if (index === count - 1) acknowledged = true;
  }
  return { acknowledged, errors };
}

/** A part of a dump. */
export type DumpPart =
  | { readonly kind: "objects"; readonly objects: readonly ReadMessage[]; readonly done: boolean }
  | { readonly kind: "error"; readonly errno: number }
  /** The rule set changed meanwhile, and the request must be sent again. */
  | { readonly kind: "interrupted" }
  | { readonly kind: "malformed" };

/** Parses one datagram of a dump, which may have several. */
export function readDumpPart(datagram: DataView, sequence: number): DumpPart {
  const messages = readMessages(datagram);
  if (messages === null) return { kind: "malformed" };
  const ours = messages.filter((message) => message.sequence === sequence);
  if (ours.some(({ flags }) => (flags & FLAG_DUMP_INTERRUPTED) !== 0)) return { kind: "interrupted" };
  let done = false;
  const objects: ReadMessage[] = [];
  for (const message of ours) {
    if (message.type === TYPE_DONE) {
      const error = message.payload.byteLength >= 4 ? message.payload.getInt32(0, true) : 0;
      if (error < 0) return { kind: "error", errno: -error };
      done = true;
    } else if (message.type === TYPE_ERROR) {
      const error = message.payload.byteLength >= 4 ? message.payload.getInt32(0, true) : 0;
      return error === 0 ? { kind: "malformed" } : { kind: "error", errno: -error };
    } else objects.push(message);
  }
  return { kind: "objects", objects, done };
}

/** An expression of a rule or a set, inside NFTA_RULE_EXPRESSIONS: NFTA_LIST_ELEM { NFTA_EXPR_NAME, NFTA_EXPR_DATA }. */
export const expression = (name: string, ...data: readonly Attribute[]): Attribute =>
  nest(NFTA_LIST_ELEM, text(EXPR.NAME, name), nest(EXPR.DATA, ...data));

/** The same with data as bytes that were encoded before. */
export const rawExpression = (name: string, data: Uint8Array): Attribute =>
  nest(NFTA_LIST_ELEM, text(EXPR.NAME, name), bytes(EXPR.DATA | 0x8000, data));
