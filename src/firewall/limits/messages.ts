import { createHash } from "node:crypto";
import { type Attribute, bytes, encodeAttributes, nest, text, u32, u64 } from "../nftables/attributes.ts";
import { FLAG, type NftMessage } from "../nftables/batch.ts";
import {
  CHAIN,
  COUNTER,
  CT_TIMEOUT,
  ELEM,
  ELEM_FLAG,
  ELEM_LIST,
  HOOK,
  HOOK_ATTR,
  KEY_TYPE,
  MSG,
  NFPROTO,
  NFTA_LIST_ELEM,
  OBJECT,
  OBJECT_COUNTER,
  OBJECT_CT_TIMEOUT,
  RULE,
  SET,
  SET_DESC,
  SET_FLAG,
  TABLE,
  TCP_TIMEOUT,
  VERDICT,
} from "../nftables/names.ts";
import { hostOrder, networkOrder, verdictData } from "./expressions.ts";
import { CLOSED_SECONDS } from "./figures.ts";
import {
  DROP_KINDS,
  type DropKind,
  type LimitSet,
  type LimitsTable,
  MOST_COUNTS,
  MOST_LISTS,
  MOST_USERS,
  RATE_SECONDS,
  SHORT_TIMES,
  TABLE_NAME,
} from "./table.ts";

/** The table of limits as one transaction of nf_tables. Pure. */

const message = (command: number, flags: number, ...attributes: readonly Attribute[]): NftMessage => ({
  command,
  family: NFPROTO.INET,
  flags,
  attributes,
});

/** Deletes the table. The kernel answers ENOENT where there is none. */
export const removeMessages = (): NftMessage[] => [message(MSG.DELTABLE, 0, text(TABLE.NAME, TABLE_NAME))];

/**
 * The comment of each rule: a hash of the table and of what was wanted of it, so that a table for another configuration is
 * recognised by its comments alone. The hash includes what was wanted because a kernel may lack a part of it: such a table
 * differs from one that was meant to have no such part.
 */
export function fingerprint(table: LimitsTable): string {
  const hash = createHash("sha256").update(JSON.stringify(table.spec));
  for (const set of table.sets) hash.update(JSON.stringify(set));
  for (const { name, priority, rules } of table.chains) {
    hash.update(JSON.stringify([name, priority]));
    for (const { expressions } of rules) hash.update(encodeAttributes(expressions));
  }
  return `imdsproxy ${hash.digest("hex").slice(0, 12)}`;
}

/** Replaces the table of that name, in one transaction. */
export function replaceMessages(table: LimitsTable): NftMessage[] {
  const comment = ruleComment(fingerprint(table));
  const inTable = (type: number) => text(type, TABLE_NAME);
  const messages = [
    // Created first, so that deleting it does not fail where there is none.
    message(MSG.NEWTABLE, FLAG.CREATE, inTable(TABLE.NAME)),
    ...removeMessages(),
    message(MSG.NEWTABLE, FLAG.CREATE, inTable(TABLE.NAME)),
  ];
  if (table.shortTimes) messages.push(shortTimes());
  if (table.counters) messages.push(...DROP_KINDS.map(counter));
  for (const { name, priority } of table.chains) {
    const base =
      priority === null
        ? []
        : [
            nest(CHAIN.HOOK, u32(HOOK_ATTR.HOOKNUM, HOOK.LOCAL_OUT), u32(HOOK_ATTR.PRIORITY, priority >>> 0)),
            u32(CHAIN.POLICY, VERDICT.ACCEPT),
            text(CHAIN.TYPE, "filter"),
          ];
    messages.push(message(MSG.NEWCHAIN, FLAG.CREATE, inTable(CHAIN.TABLE), text(CHAIN.NAME, name), ...base));
  }
  for (const [index, set] of table.sets.entries()) messages.push(...setMessages(set, index + 1));
  for (const { name, rules } of table.chains) {
    for (const { expressions } of rules) {
      messages.push(
        message(
          MSG.NEWRULE,
          FLAG.CREATE | FLAG.APPEND,
          inTable(RULE.TABLE),
          text(RULE.CHAIN, name),
          nest(RULE.EXPRESSIONS, ...expressions),
          bytes(RULE.USERDATA, comment),
        ),
      );
    }
  }
  return messages;
}

/** NFTNL_UDATA_RULE_COMMENT (libnftnl/udata.h): type 0, length, text with its NUL. */
function ruleComment(comment: string): Uint8Array {
  const value = Buffer.from(`${comment}\0`);
  return Buffer.concat([Uint8Array.of(0, value.length), value]);
}

/** The comment in a rule's user data; null where it has none. */
export function commentOf(userdata: Uint8Array): string | null {
  const length = userdata[1] ?? 0;
  if (userdata[0] !== 0 || userdata.length < 2 + length || length === 0) return null;
  return Buffer.from(userdata.subarray(2, 1 + length)).toString("latin1");
}

/** A counter that begins at 0. */
const counter = (kind: DropKind): NftMessage =>
  message(
    MSG.NEWOBJ,
    FLAG.CREATE,
    text(OBJECT.TABLE, TABLE_NAME),
    text(OBJECT.NAME, kind),
    u32(OBJECT.TYPE, OBJECT_COUNTER),
    nest(OBJECT.DATA, u64(COUNTER.BYTES, 0n), u64(COUNTER.PACKETS, 0n)),
  );

const IPPROTO_TCP = 6;
const u16 = (type: number, value: number): Attribute => bytes(type, Uint8Array.of(value >> 8, value & 0xff));

/** One object for both families: only TCP's timeouts are in it (nft_ct.c, nft_ct_timeout_obj_eval). */
function shortTimes(): NftMessage {
  return message(
    MSG.NEWOBJ,
    FLAG.CREATE,
    text(OBJECT.TABLE, TABLE_NAME),
    text(OBJECT.NAME, SHORT_TIMES),
    u32(OBJECT.TYPE, OBJECT_CT_TIMEOUT),
    nest(
      OBJECT.DATA,
      u16(CT_TIMEOUT.L3PROTO, NFPROTO.IPV4),
      bytes(CT_TIMEOUT.L4PROTO, Uint8Array.of(IPPROTO_TCP)),
      nest(
        CT_TIMEOUT.DATA,
        u32(TCP_TIMEOUT.TIME_WAIT, CLOSED_SECONDS),
        u32(TCP_TIMEOUT.CLOSE, CLOSED_SECONDS),
      ),
    ),
  );
}

/**
 * NFTA_SET_USERDATA: tells nft(8) how to print the keys; the kernel ignores it. As nft 1.0.6 writes it for `type uid`,
 * `type uid : verdict`, `typeof meta skuid . ct id`, `type uid . mark` and `typeof ct id` (read from NFT_MSG_GETSET).
 */
const USERDATA = {
  uid: "000401000000",
  verdict: "000401000000010400000000060400000000",
  uidAndChance:
    "000400000000032e00040d0000000126000e000409000000010600040a000000011400040c000000010c0004170000000104ffffffff",
  uidAndMark: "000400000000",
  chance: "000402000000031400040c000000010c0004170000000104ffffffff",
} as const;
/** TYPE_INTEGER of nft's include/datatype.h; a concatenation has six bits for each part. */
const INTEGER = 4;
const concatenated = (second: number): number => (KEY_TYPE.UID << 6) | second;
/** NFT_DATA_VERDICT, and the length of struct nft_verdict. */
const DATA_VERDICT = 0xffff_ff00;
const VERDICT_LENGTH = 16;
const SIZE_OF_U32 = 4;

function setMessages(set: LimitSet, id: number): NftMessage[] {
  const make = (
    flags: number,
    key: { type: number; length: number },
    userdata: string,
    size: number | null,
    ...more: readonly Attribute[]
  ) =>
    message(
      MSG.NEWSET,
      FLAG.CREATE,
      text(SET.TABLE, TABLE_NAME),
      text(SET.NAME, set.name),
      u32(SET.FLAGS, flags),
      u32(SET.KEY_TYPE, key.type),
      u32(SET.KEY_LEN, key.length),
      u32(SET.ID, id),
      ...(size === null ? [] : [nest(SET.DESC, u32(SET_DESC.SIZE, size))]),
      ...more,
      bytes(SET.USERDATA, Buffer.from(userdata, "hex")),
    );
  const uid = { type: KEY_TYPE.UID, length: SIZE_OF_U32 };
  const chance = { type: INTEGER, length: SIZE_OF_U32 };
  const both = (second: number) => ({ type: concatenated(second), length: 2 * SIZE_OF_U32 });
  switch (set.kind) {
    case "uids":
      return [
        make(0, uid, USERDATA.uid, null),
        ...elements(
          set.name,
          id,
          set.uids.map((one) => [key(hostOrder(one))]),
        ),
      ];
    case "ranges":
      return [
        make(
          SET_FLAG.INTERVAL | SET_FLAG.MAP,
          uid,
          USERDATA.verdict,
          null,
          u32(SET.DATA_TYPE, DATA_VERDICT),
          u32(SET.DATA_LEN, VERDICT_LENGTH),
        ),
        ...elements(set.name, id, rangeElements(set.ranges)),
      ];
    case "rates":
      return [
        make(
          SET_FLAG.EVAL | SET_FLAG.TIMEOUT,
          uid,
          USERDATA.uid,
          MOST_USERS,
          u64(SET.TIMEOUT, BigInt(RATE_SECONDS * 1_000)),
        ),
      ];
    case "counts":
      return set.plain
        ? [make(SET_FLAG.EVAL, both(KEY_TYPE.MARK), USERDATA.uidAndMark, MOST_COUNTS)]
        : [make(SET_FLAG.EVAL, both(INTEGER), USERDATA.uidAndChance, MOST_COUNTS)];
    case "count":
      return [make(SET_FLAG.EVAL, chance, USERDATA.chance, MOST_LISTS)];
  }
}

const key = (value: readonly number[]): Attribute => nest(ELEM.KEY, bytes(1, Uint8Array.from(value)));

/**
 * In a set of intervals, each element begins an interval that ends at the next element. An element with the flag
 * NFT_SET_ELEM_INTERVAL_END begins an interval outside the set (net/netfilter/nft_set_rbtree.c). The first one begins at 0,
 * as nft(8) writes it.
 */
function rangeElements(ranges: Extract<LimitSet, { kind: "ranges" }>["ranges"]): Attribute[][] {
  const end = (at: number): Attribute[] => [key(networkOrder(at)), u32(ELEM.FLAGS, ELEM_FLAG.INTERVAL_END)];
  const found: Attribute[][] = [end(0)];
  for (const { first, last, chain } of ranges) {
    found.push([key(networkOrder(first)), nest(ELEM.DATA, ...verdictData(VERDICT.GOTO, chain))]);
    // An end for each interval, also where the next one begins there: the kernel checks for overlaps by pairs.
    found.push(end(last + 1));
  }
  return found;
}

/** Elements in one message, so that no attribute is longer than its u16 length allows. */
const ELEMENTS_OF_MESSAGE = 400;

function elements(set: string, id: number, all: readonly (readonly Attribute[])[]): NftMessage[] {
  const messages: NftMessage[] = [];
  for (let at = 0; at < all.length; at += ELEMENTS_OF_MESSAGE) {
    messages.push(
      message(
        MSG.NEWSETELEM,
        FLAG.CREATE,
        text(ELEM_LIST.TABLE, TABLE_NAME),
        text(ELEM_LIST.SET, set),
        u32(ELEM_LIST.SET_ID, id),
        nest(
          ELEM_LIST.ELEMENTS,
          ...all.slice(at, at + ELEMENTS_OF_MESSAGE).map((one) => nest(NFTA_LIST_ELEM, ...one)),
        ),
      ),
    );
  }
  return messages;
}
