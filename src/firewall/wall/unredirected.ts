import { parseAddress, sameAddress } from "../../identity/address.ts";
import type { Endpoint } from "../../identity/endpoint.ts";
import { decodeByAttributes, TYPE_GET, TYPE_NEW } from "../../identity/netlink/conntrack.ts";
import { familyOf, METADATA, redirectTarget, sameEndpoint } from "../addresses.ts";
import { type Attribute, bytes, bytesOf, hostU32, nest, walkAttributes } from "../nftables/attributes.ts";
import { encodeMessage, FLAG, type ReadMessage } from "../nftables/batch.ts";
import type { FirewallSpec } from "../types.ts";
import { USERS_SOURCE } from "./tables.ts";

/**
 * Tracked connections that users began while the redirect was missing. The second wall dropped their packets, but conntrack has an
 * entry of each for 120 s after the last one (net.netfilter.nf_conntrack_tcp_timeout_syn_sent). nat does with every packet of an entry
 * what it did with the first. So a later connection from the same port would lead past the redirect again, and be dropped, although the
 * redirect is back. In IPv6 a later connection from the same port is served without this (test/attack/begun-while-open.test.ts).
 *
 * The messages of NETLINK_NETFILTER, subsystem ctnetlink, that list and delete such entries
 * (linux/netfilter/nfnetlink_conntrack.h). Pure.
 */

/** NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE */
const TYPE_DELETE = (1 << 8) | 2;
const AF_INET = 2;
const IPPROTO_TCP = 6;
const NLA_F_NESTED = 0x8000;

// enum ctattr_type, ctattr_tuple, ctattr_ip, ctattr_l4proto, ctattr_filter
const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_ID = 12;
const CTA_ZONE = 18;
const CTA_FILTER = 25;
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
const CTA_IP_V4_SRC = 1;
const CTA_PROTO_NUM = 1;
const CTA_PROTO_SRC_PORT = 2;
const CTA_FILTER_ORIG_FLAGS = 1;
const CTA_FILTER_REPLY_FLAGS = 2;
/** CTA_FILTER_F_CTA_IP_SRC, CTA_FILTER_F_CTA_PROTO_NUM, CTA_FILTER_F_CTA_PROTO_SRC_PORT (net/netfilter/nf_internals.h) */
const BY_SOURCE = 1;
const BY_PROTOCOL = 8;
const BY_SOURCE_PORT = 16;

/** What names one entry and no later one: its original tuple, its id, and its zone where it has one. */
const NAMES: readonly number[] = [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE];

/** An entry, by what is sent to delete it. */
export interface Unredirected {
  readonly name: readonly Attribute[];
}

const SOURCE = parseAddress(USERS_SOURCE) as Uint8Array;

/**
 * Where such connections lead: to the upstream by the agent's entry, or to the metadata address itself. The kernel is asked for these alone,
 * by protocol, address and port: users can have tens of thousands of other entries from this source, and whoever repairs the rules must
 * not read them all.
 */
export const unredirectedTargets = ({ upstream }: Pick<FirewallSpec, "upstream">): readonly Endpoint[] =>
  [upstream, METADATA.ipv4].filter(
    (one, i, all) => familyOf(one) === "ipv4" && all.findIndex((other) => sameEndpoint(other, one)) === i,
  );

/**
 * The request that lists the TCP entries from {@link USERS_SOURCE} that lead to a target. A kernel before linux 5.8 does not know the
 * filter, and lists all entries of IPv4.
 */
export const encodeUsersTracked = ({ address, port }: Endpoint, sequence: number): Uint8Array =>
  encodeMessage(TYPE_GET, FLAG.DUMP, sequence, { family: AF_INET, resource: 0 }, [
    nest(CTA_TUPLE_ORIG, nest(CTA_TUPLE_IP, bytes(CTA_IP_V4_SRC, SOURCE))),
    nest(
      CTA_TUPLE_REPLY,
      nest(CTA_TUPLE_IP, bytes(CTA_IP_V4_SRC, parseAddress(address) as Uint8Array)),
      nest(
        CTA_TUPLE_PROTO,
        bytes(CTA_PROTO_NUM, new Uint8Array([IPPROTO_TCP])),
        bytes(CTA_PROTO_SRC_PORT, new Uint8Array([port >> 8, port & 0xff])),
      ),
    ),
    nest(
      CTA_FILTER,
      hostU32(CTA_FILTER_ORIG_FLAGS, BY_SOURCE),
      hostU32(CTA_FILTER_REPLY_FLAGS, BY_SOURCE | BY_PROTOCOL | BY_SOURCE_PORT),
    ),
  ]);

/** The request that deletes one. */
export const encodeForget = ({ name }: Unredirected, sequence: number): Uint8Array =>
  encodeMessage(TYPE_DELETE, FLAG.ACK, sequence, { family: AF_INET, resource: 0 }, name);

/** Parses an entry of the list; null for any that is not from {@link USERS_SOURCE}, and for one that leads to the proxy. */
export function decodeUnredirected(
  { type, payload }: ReadMessage,
  { listen }: Pick<FirewallSpec, "listen">,
): Unredirected | null {
  if (type !== TYPE_NEW) return null;
  const entry = decodeByAttributes(payload);
  const { address, port } = redirectTarget(listen, "ipv4");
  const listener = parseAddress(address);
  if (entry === null || listener === null || !sameAddress(entry.original.sourceAddress, SOURCE)) return null;
  // The agent may have the listener's address.
  if (sameAddress(entry.reply.sourceAddress, listener) && entry.reply.sourcePort === port) return null;
  const attributes = walkAttributes(payload, 4);
  // Without a name, the request to delete would mean every entry.
  if (attributes?.some(({ type }) => type === CTA_TUPLE_ORIG) !== true) return null;
  return {
    name: attributes
      .filter((one) => NAMES.includes(one.type))
      .map((one) =>
        bytes(one.type === CTA_TUPLE_ORIG ? one.type | NLA_F_NESTED : one.type, bytesOf(one.payload)),
      ),
  };
}
