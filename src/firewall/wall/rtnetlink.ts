import { addressText, parseAddress } from "../../identity/address.ts";
import { align, FLAG_REQUEST, HEADER_LENGTH, writeHeader } from "../../identity/netlink/message.ts";
import {
  type Attribute,
  bytesOf,
  encodeAttributes,
  type ReadAttribute,
  walkAttributes,
} from "../nftables/attributes.ts";
import type { ReadMessage } from "../nftables/batch.ts";
import type { Family } from "../types.ts";
import { isTcp } from "./text.ts";
import type { Change, Link, LocalAddress, Route, RoutingRule } from "./types.ts";

/**
 * rtnetlink(7) messages, as far as the wall needs them: rules (linux/fib_rules.h), routes, links and addresses
 * (linux/rtnetlink.h, if_link.h, if_addr.h). Numbers are in host byte order, addresses in network byte order. Pure.
 */

/** NETLINK_ROUTE */
export const NETLINK_ROUTE = 0;
/** RTM_* (linux/rtnetlink.h) */
const RTM = {
  NEWLINK: 16,
  GETLINK: 18,
  NEWADDR: 20,
  GETADDR: 22,
  NEWROUTE: 24,
  DELROUTE: 25,
  GETROUTE: 26,
  NEWRULE: 32,
  DELRULE: 33,
  GETRULE: 34,
} as const;
/**
 * RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE, and
 * RTNLGRP_IPV6_RULE (19) as bits for bind(2): what can change the wall, or what it should be.
 */
export const CHANGE_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | (1 << (19 - 1));

/** NLM_F_ACK; NLM_F_CREATE without NLM_F_EXCL, which adds a rule again where it exists; NLM_F_ROOT | NLM_F_MATCH. */
const ACK = 0x4;
const CREATE = 0x400;
const EXCL = 0x200;
const DUMP = 0x300;

const AF: Record<Family, number> = { ipv4: 2, ipv6: 10 };
const FAMILY_OF: ReadonlyMap<number, Family> = new Map([
  [2, "ipv4"],
  [10, "ipv6"],
]);
const BITS: Record<Family, number> = { ipv4: 32, ipv6: 128 };

/** FRA_* (linux/fib_rules.h) */
const FRA = {
  DST: 1,
  SRC: 2,
  IIFNAME: 3,
  GOTO: 4,
  PRIORITY: 6,
  SUPPRESS_PREFIXLEN: 14,
  TABLE: 15,
  OIFNAME: 17,
  PAD: 18,
  UID_RANGE: 20,
  PROTOCOL: 21,
  IP_PROTO: 22,
  SPORT_RANGE: 23,
  DPORT_RANGE: 24,
  SPORT_MASK: 28,
  DPORT_MASK: 29,
} as const;
/** FR_ACT_* */
const ACTION = { lookup: 1, goto: 2, nop: 3, unreachable: 7, prohibit: 8 } as const;
/** FIB_RULE_UNRESOLVED: the target of a goto is missing. No rule of ours has another flag. */
const RULE_UNRESOLVED = 4;
/** struct fib_rule_hdr: u8 family, dst_len, src_len, tos, table, res1, res2, action, u32 flags */
const RULE_LENGTH = 12;
const IPPROTO_TCP = 6;
/** All link-local addresses (RFC 4291, section 2.5.6): the only prefix in our rules; all others have whole addresses. */
export const LINK_LOCAL = "fe80::/10";
/** RTPROT_KERNEL: systemd-networkd leaves the rules and routes of that protocol alone. */
export const PROTOCOL_KERNEL = 2;

/** RTA_* */
const RTA = { DST: 1, OIF: 4, PRIORITY: 6, PREFSRC: 7, TABLE: 15 } as const;
/** RTN_* */
const ROUTE_KIND = { unicast: 1, local: 2, broadcast: 3, multicast: 5, prohibit: 8 } as const;
const KIND_OF = new Map<number, Route["kind"]>(
  Object.entries(ROUTE_KIND).map(([name, type]) => [type, name as Route["kind"]]),
);
/** struct rtmsg: u8 family, dst_len, src_len, tos, table, protocol, scope, type, u32 flags */
const ROUTE_LENGTH = 12;
/** RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST; RT_SCOPE_NOWHERE in a deletion stands for any. */
const SCOPE = { universe: 0, link: 253, host: 254, any: 255 } as const;
/** struct ifinfomsg, struct ifaddrmsg */
const LINK_LENGTH = 16;
const ADDRESS_LENGTH = 8;
const IFLA_IFNAME = 3;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;

function u32(type: number, value: number): Attribute {
  const buffer = new Uint8Array(4);
  new DataView(buffer.buffer).setUint32(0, value, true);
  return { type, value: buffer };
}

function pair(type: number, width: 16 | 32, first: number, last: number): Attribute {
  const buffer = new Uint8Array(width / 4);
  const view = new DataView(buffer.buffer);
  if (width === 16) {
    view.setUint16(0, first, true);
    view.setUint16(2, last, true);
  } else {
    view.setUint32(0, first, true);
    view.setUint32(4, last, true);
  }
  return { type, value: buffer };
}

const addressBytes = (text: string): Uint8Array => {
  const bytes = parseAddress(text);
  if (bytes === null) throw new RangeError(`${JSON.stringify(text)} is no IP address`);
  return bytes;
};

/** Formats the bytes of an address as the rest of the firewall writes it. */
export function textOfAddress(bytes: Uint8Array): string {
  const text = addressText(bytes);
  return bytes.length === 4 ? text : new URL(`http://[${text}]`).hostname.slice(1, -1);
}

function message(
  type: number,
  flags: number,
  sequence: number,
  header: Uint8Array,
  attributes: readonly Attribute[],
): Uint8Array {
  const payload = encodeAttributes(attributes);
  const length = HEADER_LENGTH + header.length + payload.length;
  const out = new Uint8Array(align(length));
  writeHeader(new DataView(out.buffer), type, FLAG_REQUEST | flags, sequence, length);
  out.set(header, HEADER_LENGTH);
  out.set(payload, HEADER_LENGTH + header.length);
  return out;
}

/** The kinds of objects that can be listed. */
export type Listing = "rules" | "routes" | "links" | "addresses";

/**
 * The request that lists all objects of a kind.
 *
 * @param table of routes: only those of this table, where the socket checks strictly (NETLINK_GET_STRICT_CHK, linux 4.20).
 */
export function encodeDump(what: Listing, family: Family | null, sequence: number, table = 0): Uint8Array {
  const [type, length] = {
    rules: [RTM.GETRULE, RULE_LENGTH],
    routes: [RTM.GETROUTE, ROUTE_LENGTH],
    links: [RTM.GETLINK, LINK_LENGTH],
    addresses: [RTM.GETADDR, ADDRESS_LENGTH],
  }[what] as [number, number];
  const header = new Uint8Array(length);
  header[0] = family === null ? 0 : AF[family];
  return message(type, DUMP, sequence, header, table === 0 ? [] : [u32(RTA.TABLE, table)]);
}

/** The request for one change, with an acknowledgement. */
export function encodeChange(change: Change, sequence: number): Uint8Array {
  if (change.kind === "add-rule") return encodeRule(RTM.NEWRULE, CREATE, change.rule, sequence);
  if (change.kind === "delete-rule") return encodeRule(RTM.DELRULE, 0, change.rule, sequence);
  return change.kind === "add-route"
    ? encodeRoute(RTM.NEWROUTE, CREATE | EXCL, change.route, sequence)
    : encodeRoute(RTM.DELROUTE, 0, change.route, sequence);
}

function encodeRule(type: number, flags: number, rule: RoutingRule, sequence: number): Uint8Array {
  const { family, action } = rule;
  const header = new Uint8Array(RULE_LENGTH);
  header[0] = AF[family];
  const [to, length = BITS[family]] = rule.to?.split("/") ?? [];
  header[1] = to === undefined ? 0 : Number(length);
  header[2] = rule.from === undefined ? 0 : BITS[family];
  header[7] = ACTION[action.kind];
  const attributes: Attribute[] = [];
  if (to !== undefined) attributes.push({ type: FRA.DST, value: addressBytes(to) });
  if (rule.from !== undefined) attributes.push({ type: FRA.SRC, value: addressBytes(rule.from) });
  if (rule.iif !== undefined) attributes.push({ type: FRA.IIFNAME, value: Buffer.from(`${rule.iif}\0`) });
  if (rule.oif !== undefined) attributes.push({ type: FRA.OIFNAME, value: Buffer.from(`${rule.oif}\0`) });
  attributes.push(u32(FRA.PRIORITY, rule.preference));
  if (action.kind === "lookup") attributes.push(u32(FRA.TABLE, action.table));
  if (action.kind === "goto") attributes.push(u32(FRA.GOTO, action.preference));
  if (rule.uids !== undefined) attributes.push(pair(FRA.UID_RANGE, 32, ...rule.uids));
  attributes.push({ type: FRA.PROTOCOL, value: Uint8Array.of(rule.protocol) });
  if (isTcp(rule)) attributes.push({ type: FRA.IP_PROTO, value: Uint8Array.of(IPPROTO_TCP) });
  if (rule.tcpSourcePort !== undefined)
    attributes.push(pair(FRA.SPORT_RANGE, 16, rule.tcpSourcePort, rule.tcpSourcePort));
  if (rule.tcpPort !== undefined) attributes.push(pair(FRA.DPORT_RANGE, 16, rule.tcpPort, rule.tcpPort));
  return message(type, ACK | flags, sequence, header, attributes);
}

/**
 * The scope of a route that is added. `host` for routes of type broadcast or multicast: such a route can be added while the
 * interface is down, and stays when the interface goes down (fib_create_info() and fib_sync_down_dev() in
 * net/ipv4/fib_semantics.c).
 */
const scopeOf = ({ family, kind }: Route): number =>
  family === "ipv6" || kind === "prohibit" ? SCOPE.universe : kind === "unicast" ? SCOPE.link : SCOPE.host;

function encodeRoute(type: number, flags: number, route: Route, sequence: number): Uint8Array {
  const { family, to } = route;
  const [address = "", length = "0"] = to === "default" ? [] : to.split("/");
  const header = new Uint8Array(ROUTE_LENGTH);
  header[0] = AF[family];
  header[1] = Number(length);
  // Without a protocol, the kernel deletes the route whichever program added it.
  header[5] = type === RTM.DELROUTE ? 0 : PROTOCOL_KERNEL;
  header[6] = type === RTM.DELROUTE ? SCOPE.any : scopeOf(route);
  header[7] = ROUTE_KIND[route.kind];
  const attributes: Attribute[] = [];
  if (to !== "default") attributes.push({ type: RTA.DST, value: addressBytes(address) });
  attributes.push(u32(RTA.TABLE, route.table), u32(RTA.PRIORITY, route.metric));
  if (route.interface !== 0) attributes.push(u32(RTA.OIF, route.interface));
  if (route.source !== undefined) attributes.push({ type: RTA.PREFSRC, value: addressBytes(route.source) });
  return message(type, ACK | flags, sequence, header, attributes);
}

/** The header of a message as bytes, and its attributes; null where the message is damaged. */
function open({ payload }: ReadMessage, length: number) {
  if (payload.byteLength < length) return null;
  const attributes = walkAttributes(payload, length);
  return attributes === null ? null : { byte: (at: number) => payload.getUint8(at), payload, attributes };
}

const get = (attributes: readonly ReadAttribute[], type: number): DataView | undefined =>
  attributes.find((attribute) => attribute.type === type)?.payload;
const number = (payload: DataView | undefined): number | undefined =>
  payload?.byteLength === 4 ? payload.getUint32(0, true) : undefined;
const address = (payload: DataView | undefined): string | undefined =>
  payload === undefined ? undefined : textOfAddress(bytesOf(payload));
/** A text with a zero byte at its end. */
const text = (payload: DataView | undefined): string | undefined =>
  payload === undefined ? undefined : Buffer.from(bytesOf(payload)).toString("latin1").replace(/\0.*$/s, "");

/** Attributes that do not change which packets a rule matches. */
const SILENT = new Set<number>([...Object.values(FRA)]);

/** Parses a rule from a dump or a notification; null for any other message. */
export function decodeRule(read: ReadMessage): RoutingRule | null {
  if (read.type !== RTM.NEWRULE && read.type !== RTM.DELRULE) return null;
  const found = open(read, RULE_LENGTH);
  const family = FAMILY_OF.get(found?.byte(0) ?? 0);
  if (found === null || family === undefined) return null;
  const { byte, attributes, payload } = found;
  const at = (type: number) => get(attributes, type);
  const uids = at(FRA.UID_RANGE);
  const proto = at(FRA.IP_PROTO)?.getUint8(0);
  const whole = (length: number) => length === 0 || length === BITS[family];
  const kind = byte(7);
  const range = (ports: DataView | undefined) =>
    ports?.byteLength === 4 ? [ports.getUint16(0, true), ports.getUint16(2, true)] : [];
  const [port, sourcePort] = [range(at(FRA.DPORT_RANGE)), range(at(FRA.SPORT_RANGE))];
  const flags = payload.getUint32(8, true) & ~RULE_UNRESOLVED;
  const suppress = number(at(FRA.SUPPRESS_PREFIXLEN)) ?? 0xffffffff;
  const prefix = `${address(at(FRA.DST))}/${byte(1)}`;
  const rule = {
    family,
    preference: number(at(FRA.PRIORITY)) ?? 0,
    to: byte(1) === 0 ? undefined : prefix === LINK_LOCAL ? prefix : address(at(FRA.DST)),
    // For the source 0.0.0.0, older kernels send the length of the prefix without the attribute FRA_SRC.
    from: byte(2) === 0 ? undefined : (address(at(FRA.SRC)) ?? (family === "ipv4" ? "0.0.0.0" : "::")),
    iif: text(at(FRA.IIFNAME)),
    oif: text(at(FRA.OIFNAME)),
    tcpPort: port[0],
    tcpSourcePort: sourcePort[0],
    tcp: proto === IPPROTO_TCP && port.length + sourcePort.length === 0 ? true : undefined,
    uids: uids?.byteLength === 8 ? ([uids.getUint32(0, true), uids.getUint32(4, true)] as const) : undefined,
    protocol: at(FRA.PROTOCOL)?.getUint8(0) ?? 0,
  };
  const foreign =
    (!whole(byte(1)) && prefix !== LINK_LOCAL) ||
    !whole(byte(2)) ||
    byte(3) !== 0 ||
    flags !== 0 ||
    suppress !== 0xffffffff ||
    port[0] !== port[1] ||
    sourcePort[0] !== sourcePort[1] ||
    // Linux 6.15 and later send masks; full ones where none were given.
    [FRA.DPORT_MASK, FRA.SPORT_MASK].some((mask) => (at(mask)?.getUint16(0, true) ?? 0xffff) !== 0xffff) ||
    (proto !== undefined && proto !== IPPROTO_TCP) ||
    attributes.some(({ type }) => !SILENT.has(type)) ||
    !(Object.values(ACTION) as number[]).includes(kind);
  const table = number(at(FRA.TABLE)) ?? byte(4);
  const action: RoutingRule["action"] =
    kind === ACTION.goto
      ? { kind: "goto", preference: number(at(FRA.GOTO)) ?? 0 }
      : kind === ACTION.lookup
        ? { kind: "lookup", table }
        : { kind: kind === ACTION.nop ? "nop" : kind === ACTION.unreachable ? "unreachable" : "prohibit" };
  return { ...rule, action, ...(foreign ? { foreign } : {}) };
}

/** Parses a route; null for any other message, and for a route of a type that we do not add. */
export function decodeRoute(read: ReadMessage): Route | null {
  if (read.type !== RTM.NEWROUTE && read.type !== RTM.DELROUTE) return null;
  const found = open(read, ROUTE_LENGTH);
  const family = FAMILY_OF.get(found?.byte(0) ?? 0);
  const kind = KIND_OF.get(found?.byte(7) ?? 0);
  if (found === null || family === undefined || kind === undefined) return null;
  const { byte, attributes } = found;
  const to = address(get(attributes, RTA.DST));
  const source = address(get(attributes, RTA.PREFSRC));
  return {
    family,
    kind,
    table: number(get(attributes, RTA.TABLE)) ?? byte(4),
    to: to === undefined ? "default" : `${to}/${byte(1)}`,
    interface: number(get(attributes, RTA.OIF)) ?? 0,
    metric: number(get(attributes, RTA.PRIORITY)) ?? 0,
    ...(source === undefined ? {} : { source }),
  };
}

/** Parses an interface; null for any other message. */
export function decodeLink(read: ReadMessage): Link | null {
  if (read.type !== RTM.NEWLINK) return null;
  const found = open(read, LINK_LENGTH);
  const name = found === null ? undefined : text(get(found.attributes, IFLA_IFNAME));
  if (found === null || name === undefined) return null;
  return { index: found.payload.getInt32(4, true), name };
}

/** Parses an address of the node; null for any other message. */
export function decodeAddress(read: ReadMessage): LocalAddress | null {
  if (read.type !== RTM.NEWADDR) return null;
  const found = open(read, ADDRESS_LENGTH);
  const family = FAMILY_OF.get(found?.byte(0) ?? 0);
  if (found === null || family === undefined) return null;
  // On a point-to-point interface, IFA_ADDRESS is the address of the other end (linux/if_addr.h).
  const own = address(get(found.attributes, IFA_LOCAL) ?? get(found.attributes, IFA_ADDRESS));
  return own === undefined ? null : { family, address: own, interface: found.payload.getUint32(4, true) };
}

/** Whether a notification is of a rule, an interface, an address, or a route of one of these tables. */
export function concernsWall(read: ReadMessage, tables: ReadonlySet<number>): boolean {
  if (read.type === RTM.NEWROUTE || read.type === RTM.DELROUTE) {
    return tables.has(decodeRoute(read)?.table ?? 0);
  }
  return read.type >= RTM.NEWLINK && read.type <= RTM.DELRULE;
}
