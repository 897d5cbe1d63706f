import type { Rate } from "../../platform/token-bucket.ts";
import { type Attribute, bytes, nest, text, u32, u64 } from "../nftables/attributes.ts";
import { expression } from "../nftables/batch.ts";
import {
  BITWISE,
  BYTEORDER,
  BYTEORDER_HTON,
  CMP,
  CMP_OP,
  CONNLIMIT,
  CONNLIMIT_OVER,
  CT,
  CT_KEY,
  DATA,
  DYNSET,
  DYNSET_OP,
  EXTHDR,
  EXTHDR_OP,
  EXTHDR_PRESENT,
  IMMEDIATE,
  LIMIT,
  LIMIT_OVER,
  LOG,
  LOOKUP,
  META,
  META_KEY,
  OBJECT_COUNTER,
  OBJECT_CT_TIMEOUT,
  OBJREF,
  PAYLOAD,
  PAYLOAD_BASE,
  REG,
  VERDICT,
  VERDICT_ATTR,
} from "../nftables/names.ts";

/** The nf_tables expressions of the table of limits, each encoded as nft(8) encodes it. Pure. */

type Bytes = readonly number[];
const value = (type: number, data: Bytes): Attribute => nest(type, bytes(DATA.VALUE, Uint8Array.from(data)));

/** A u32 in host byte order, in which registers hold uids and conntrack's status. All our builds are little-endian. */
export const hostOrder = (number: number): Bytes => [
  number & 0xff,
  (number >>> 8) & 0xff,
  (number >>> 16) & 0xff,
  number >>> 24,
];
/** A u32 in network byte order, which range expressions compare. */
export const networkOrder = (number: number): Bytes => [...hostOrder(number)].reverse();

const meta = (key: number) => expression("meta", u32(META.KEY, key), u32(META.DREG, REG.R1));
const bitwise = (register: number, mask: Bytes, xor: Bytes) =>
  expression(
    "bitwise",
    u32(BITWISE.SREG, register),
    u32(BITWISE.DREG, register),
    u32(BITWISE.LEN, mask.length),
    value(BITWISE.MASK, mask),
    value(BITWISE.XOR, xor),
  );
const compare = (operator: number, data: Bytes) =>
  expression("cmp", u32(CMP.SREG, REG.R1), u32(CMP.OP, operator), value(CMP.DATA, data));
const load = (base: number, offset: number, length: number) =>
  expression(
    "payload",
    u32(PAYLOAD.DREG, REG.R1),
    u32(PAYLOAD.BASE, base),
    u32(PAYLOAD.OFFSET, offset),
    u32(PAYLOAD.LEN, length),
  );
const conntrack = (key: number, register: number) =>
  expression("ct", u32(CT.DREG, register), u32(CT.KEY, key));
const toNetworkOrder = expression(
  "byteorder",
  u32(BYTEORDER.SREG, REG.R1),
  u32(BYTEORDER.DREG, REG.R1),
  u32(BYTEORDER.OP, BYTEORDER_HTON),
  u32(BYTEORDER.LEN, 4),
  u32(BYTEORDER.SIZE, 4),
);

/** `meta skuid`: the owner of the socket. The rule does not match a packet without a socket, or whose socket has no file. */
export const socketUid = meta(META_KEY.SKUID);
/** `meta skuid & 0 ^ NUMBER`: this number for every packet that has a uid. */
export const constantForUid = (number: number): Attribute[] => [
  socketUid,
  bitwise(REG.R1, [0, 0, 0, 0], hostOrder(number)),
];
/** `meta skuid 1-4294967294` */
export const anyUidButRoot: Attribute[] = [
  socketUid,
  toNetworkOrder,
  compare(CMP_OP.GTE, networkOrder(1)),
  compare(CMP_OP.LTE, networkOrder(0xffff_fffe)),
];
/** `@SET`: whether the loaded value is in a set. */
export const inSet = (set: string) => expression("lookup", text(LOOKUP.SET, set), u32(LOOKUP.SREG, REG.R1));
/** `vmap @MAP` of ranges. */
export const verdictOf = (map: string): Attribute[] => [
  toNetworkOrder,
  expression("lookup", text(LOOKUP.SET, map), u32(LOOKUP.SREG, REG.R1), u32(LOOKUP.DREG, REG.VERDICT)),
];
/** `ct id & MASK`: a random number for each new connection (nf_ct_get_id, kernel 5.2). */
export const chance = (lists: number, register: number): Attribute[] => [
  conntrack(CT_KEY.ID, register),
  // nft reads the mask in network byte order. That is no matter: any bits of a hash are as good as others.
  bitwise(register, networkOrder(lists - 1), [0, 0, 0, 0]),
];
/** IPS_CONFIRMED (linux/netfilter/nf_conntrack_common.h): the connection is in the table. */
const CONFIRMED = 8;
/** `ct status & confirmed == 0`: the packet begins a connection that is not in the table yet. */
export const beginsConnection: Attribute[] = [
  conntrack(CT_KEY.STATUS, REG.R1),
  bitwise(REG.R1, hostOrder(CONFIRMED), [0, 0, 0, 0]),
  compare(CMP_OP.EQ, [0, 0, 0, 0]),
];

const TCP = 6;
/** `meta l4proto tcp` */
export const isTcp: Attribute[] = [meta(META_KEY.L4PROTO), compare(CMP_OP.EQ, [TCP])];
/** `tcp sport >= 1024` */
export const fromUnprivilegedPort: Attribute[] = [
  ...isTcp,
  load(PAYLOAD_BASE.TRANSPORT, 0, 2),
  compare(CMP_OP.GTE, [1024 >> 8, 0]),
];
const NFPROTO_BYTE = { ipv4: 2, ipv6: 10 } as const;
const isFamily = (family: keyof typeof NFPROTO_BYTE): Attribute[] => [
  meta(META_KEY.NFPROTO),
  compare(CMP_OP.EQ, [NFPROTO_BYTE[family]]),
];
/** `ip daddr ADDRESS tcp dport PORT`, or the same with `ip6`. */
export const tcpTo = (address: Uint8Array, port: number): Attribute[] => {
  const family = address.length === 4 ? "ipv4" : "ipv6";
  return [
    ...isFamily(family),
    // struct iphdr and struct ipv6hdr: daddr at 16 and at 24.
    load(PAYLOAD_BASE.NETWORK, family === "ipv4" ? 16 : 24, address.length),
    compare(CMP_OP.EQ, [...address]),
    ...isTcp,
    load(PAYLOAD_BASE.TRANSPORT, 2, 2),
    compare(CMP_OP.EQ, [port >> 8, port & 0xff]),
  ];
};
/** `ip daddr ADDRESS tcp dport PORT tcp flags & (syn | ack) == syn`, or the same with `ip6`. */
export const synTo = (address: Uint8Array, port: number): Attribute[] => [
  ...tcpTo(address, port),
  load(PAYLOAD_BASE.TRANSPORT, 13, 1),
  bitwise(REG.R1, [0x12], [0]),
  compare(CMP_OP.EQ, [0x02]),
];
/** `ip length > BYTES` (struct iphdr: tot_len at 2), or `ip6 length > BYTES` (struct ipv6hdr: payload_len at 4). */
export const longerThan = (family: keyof typeof NFPROTO_BYTE, size: number): Attribute[] => [
  load(PAYLOAD_BASE.NETWORK, family === "ipv4" ? 2 : 4, 2),
  compare(CMP_OP.GT, [size >> 8, size & 0xff]),
];
/** `iif != "lo"`: the packet did not come from this node. Loopback has index 1 in every network namespace (LOOPBACK_IFINDEX). */
export const notFromLoopback: Attribute[] = [meta(META_KEY.IIF), compare(CMP_OP.NEQ, hostOrder(1))];
const present = (operation: number, type: number): Attribute[] => [
  expression(
    "exthdr",
    u32(EXTHDR.DREG, REG.R1),
    bytes(EXTHDR.TYPE, Uint8Array.of(type)),
    u32(EXTHDR.OFFSET, 0),
    u32(EXTHDR.LEN, 1),
    u32(EXTHDR.FLAGS, EXTHDR_PRESENT),
    u32(EXTHDR.OP, operation),
  ),
  compare(CMP_OP.EQ, [1]),
];
/** IPPROTO_ROUTING; IPOPT_LSRR and IPOPT_SSRR with the copied flag (linux/ip.h). */
const ROUTING = 43;
const SOURCE_ROUTES = { lsrr: 131, ssrr: 137 } as const;
/** `exthdr rt exists` */
export const hasRoutingHeader: Attribute[] = [...isFamily("ipv6"), ...present(EXTHDR_OP.IPV6, ROUTING)];
/** `ip option lsrr exists`, `ip option ssrr exists` */
export const hasSourceRoute = (option: keyof typeof SOURCE_ROUTES): Attribute[] => [
  ...isFamily("ipv4"),
  ...present(EXTHDR_OP.IPV4, SOURCE_ROUTES[option]),
];

const rateOver = ({ perSecond, burst }: Rate) =>
  expression(
    "limit",
    u64(LIMIT.RATE, BigInt(perSecond)),
    u64(LIMIT.UNIT, 1n),
    u32(LIMIT.BURST, burst),
    u32(LIMIT.TYPE, 0),
    u32(LIMIT.FLAGS, LIMIT_OVER),
  );
/** `limit rate over N/second burst M packets` */
export const over = (rate: Rate): Attribute[] => [rateOver(rate)];
const inner = (element: Attribute, type: number): Attribute => ({ type, value: element.value });
const dynamic = (operation: number, set: string, element: Attribute): Attribute =>
  expression(
    "dynset",
    text(DYNSET.SET_NAME, set),
    u32(DYNSET.OP, operation),
    u32(DYNSET.SREG_KEY, REG.R1),
    inner(element, DYNSET.EXPR),
  );
/** `update @SET { … limit rate over … }` for the key in the register. */
export const overFor = (set: string, rate: Rate) => dynamic(DYNSET_OP.UPDATE, set, rateOver(rate));
/** `add @SET { … ct count over N }` */
export const countOverFor = (set: string, count: number) =>
  dynamic(
    DYNSET_OP.ADD,
    set,
    expression("connlimit", u32(CONNLIMIT.COUNT, count), u32(CONNLIMIT.FLAGS, CONNLIMIT_OVER)),
  );
/** `ct timeout set "NAME"` */
export const useTimeout = (name: string) =>
  expression("objref", u32(OBJREF.IMM_TYPE, OBJECT_CT_TIMEOUT), text(OBJREF.IMM_NAME, name));

/** `counter name "NAME"` */
export const countBy = (name: string) =>
  expression("objref", u32(OBJREF.IMM_TYPE, OBJECT_COUNTER), text(OBJREF.IMM_NAME, name));

/** `log group NUMBER snaplen BYTES queue-threshold 1`: to the NFLOG listener of that group, each packet at once. */
export const logTo = (group: number, snaplen: number): Attribute =>
  expression(
    "log",
    bytes(LOG.GROUP, Uint8Array.of(group >> 8, group & 0xff)),
    u32(LOG.SNAPLEN, snaplen),
    bytes(LOG.QTHRESHOLD, Uint8Array.of(0, 1)),
  );

/** A verdict as data: `goto CHAIN`, `drop`. */
export const verdictData = (code: number, chain?: string): Attribute[] => [
  nest(
    DATA.VERDICT,
    u32(VERDICT_ATTR.CODE, code >>> 0),
    ...(chain === undefined ? [] : [text(VERDICT_ATTR.CHAIN, chain)]),
  ),
];
const verdict = (code: number, chain?: string) =>
  expression(
    "immediate",
    u32(IMMEDIATE.DREG, REG.VERDICT),
    nest(IMMEDIATE.DATA, ...verdictData(code, chain)),
  );
export const drop = verdict(VERDICT.DROP);
export const goBack = verdict(VERDICT.RETURN);
export const jump = (chain: string) => verdict(VERDICT.JUMP, chain);
export const goTo = (chain: string) => verdict(VERDICT.GOTO, chain);
