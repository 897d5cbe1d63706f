import { parseAddress } from "../../identity/address.ts";
import type { Endpoint } from "../../identity/endpoint.ts";
import type { Rate } from "../../platform/token-bucket.ts";
import { METADATA } from "../addresses.ts";
import type { Attribute } from "../nftables/attributes.ts";
import { REG } from "../nftables/names.ts";
import * as is from "./expressions.ts";
import {
  CLOSED_SECONDS,
  type LimitsSpec,
  type NewConnections,
  type SubordinateShare,
  spread,
} from "./figures.ts";

/**
 * The table of limits: an nftables table of our own in the family inet, independent of iptables and of other tables. Each
 * rule is written here both as nft(8) reads it and as the expressions that nft(8) makes of it, so that a test can compare
 * the two. Pure.
 *
 * A packet over a limit is dropped. TCP sends its SYN again a second later, and the connection is not in the conntrack table
 * until then. For a datagram, sendmsg(2) fails with EPERM.
 */

export const TABLE_NAME = "imdsproxy_limits";

/** A rule: the text that nft(8) takes, and the expressions. */
export interface LimitRule {
  readonly text: string;
  readonly expressions: readonly Attribute[];
}

/**
 * What drops a packet, as the counters of the table are called: over the limit of new connections of one user, or of all users
 * together; the same of tracked connections; with a routing header or a source route; to the metadata address past the redirect.
 */
export const DROP_KINDS = [
  "new_user",
  "new_everyone",
  "tracked_user",
  "tracked_everyone",
  "source_routed",
  "unredirected",
] as const;
export type DropKind = (typeof DROP_KINDS)[number];

/** Builds the last part of a rule that drops. It counts the packets where the kernel can. */
type Dropping = (kind: DropKind) => { readonly text: string; readonly expressions: readonly Attribute[] };
const dropping =
  (counters: boolean): Dropping =>
  (kind) =>
    counters
      ? { text: `counter name "${kind}" drop`, expressions: [is.countBy(kind), is.drop] }
      : { text: "drop", expressions: [is.drop] };

/** The parts of the table that a kernel supports; the others are left out. */
export interface Abilities {
  /** To count tracked connections. */
  readonly count: boolean;
  readonly shortTimes: boolean;
  /** To count the packets that are dropped. */
  readonly counters: boolean;
}

export interface LimitChain {
  readonly name: string;
  /** The hook `output` and its priority; null for a chain that others jump to. */
  readonly priority: number | null;
  readonly rules: readonly LimitRule[];
}

/** A range of uids, and the chain that its packets go to. */
export interface RangeVerdict {
  readonly first: number;
  readonly last: number;
  readonly chain: string;
}

export type LimitSet =
  | { readonly kind: "uids"; readonly name: string; readonly uids: readonly number[] }
  /** Ranges of uids, each with the chain that limits them. */
  | { readonly kind: "ranges"; readonly name: string; readonly ranges: readonly RangeVerdict[] }
  /** Filled by rules: a rate for each uid, kept for ten seconds. */
  | { readonly kind: "rates"; readonly name: string }
  /** Filled by rules: connections by uid and a random number, kept as long as one of them exists. `plain`: LimitsSpec's plainKeys. */
  | { readonly kind: "counts"; readonly name: string; readonly plain: boolean }
  /** Filled by rules: connections by a random number. */
  | { readonly kind: "count"; readonly name: string };

export interface LimitsTable {
  /** What the table was made from. */
  readonly spec: LimitsSpec;
  /** Whether users' closed connections have a shorter timeout. */
  readonly shortTimes: boolean;
  /** Whether the packets that are dropped are counted. */
  readonly counters: boolean;
  readonly sets: readonly LimitSet[];
  /** In the order in which they are created: a rule jumps only to chains before its own. */
  readonly chains: readonly LimitChain[];
}

/** The most elements of the sets that rules fill: one for each user, and for each list over which a count is spread. */
export const MOST_USERS = 65_535;
export const MOST_COUNTS = 1_048_576;
const MOST_LISTS_OF_USER = 128;
export const MOST_LISTS = 1_024;

/** The seconds after which an element of a rate expires. By then its bucket is full again, for every sensible rate. */
export const RATE_SECONDS = 10;
export const SHORT_TIMES = "closed";

const rule = (text: string, ...expressions: (Attribute | readonly Attribute[])[]): LimitRule => ({
  text,
  expressions: expressions.flat() as Attribute[],
});
/** A rule that drops what the condition matches. */
const dropRule = (
  condition: string,
  expressions: readonly (Attribute | readonly Attribute[])[],
  end: ReturnType<Dropping>,
): LimitRule => rule(`${condition} ${end.text}`.trimStart(), ...expressions, end.expressions);
const rateText = ({ perSecond, burst }: Rate) => `limit rate over ${perSecond}/second burst ${burst} packets`;
const exemptReturn = rule("meta skuid @exempt return", is.socketUid, is.inSet("exempt"), is.goBack);

/** @param abilities default: all. */
export function limitsTable(
  spec: LimitsSpec,
  abilities: Abilities = { count: true, shortTimes: true, counters: true },
): LimitsTable {
  const dropped = dropping(abilities.counters);
  const sets: LimitSet[] = [{ kind: "uids", name: "exempt", uids: spec.exemptUids }];
  const chains: LimitChain[] = [];
  const early: LimitRule[] = [];

  // A packet with a routing header or a source route has another destination than where it ends: another node sends it on to
  // the metadata address, or this node where net.ipv6.conf.*.seg6_enabled or net.ipv4.conf.*.accept_source_route is set.
  chains.push({
    name: "source_routed",
    priority: null,
    rules: [exemptReturn, dropRule("", [], dropped("source_routed"))],
  });
  early.push(rule("exthdr rt exists jump source_routed", is.hasRoutingHeader, is.jump("source_routed")));
  for (const option of ["lsrr", "ssrr"] as const) {
    early.push(
      rule(
        `ip option ${option} exists jump source_routed`,
        is.hasSourceRoute(option),
        is.jump("source_routed"),
      ),
    );
  }

  if (spec.newConnections !== null)
    early.push(...newConnections(spec, spec.newConnections, sets, chains, dropped));
  const tracked = abilities.count ? spec.tracked : null;
  if (tracked !== null) trackedConnections(spec, tracked, abilities.shortTimes, sets, chains, dropped);
  // Before connection tracking (-200), so that dropped packets take no place in its table.
  chains.push({ name: "early", priority: -300, rules: early });
  if (tracked !== null) {
    chains.push({
      name: "begun",
      // After connection tracking and before the redirect (-100). The connection is not yet in the table of tracked ones.
      priority: -150,
      rules: [rule("ct status & confirmed == 0 jump tracked", is.beginsConnection, is.jump("tracked"))],
    });
  }
  chains.push(...unredirected(spec, dropped));
  return {
    spec,
    shortTimes: tracked !== null && abilities.shortTimes,
    counters: abilities.counters,
    sets,
    chains,
  };
}

/**
 * Users' connections to the metadata address or to an agent that the redirect left alone and the block let pass: where iptables' own
 * tables were flushed, which does not touch this one. The second wall (wall/wanted.ts) stops them too, except where a socket is bound
 * to an interface that appeared while the watch was stopped, the metadata address became an address of this node meanwhile, or the socket
 * has another uid than whoever opened its file, as one that was accepted below an AF_SMC listener. A packet without a uid is not an exempt
 * user's.
 */
function unredirected({ agents = [] }: LimitsSpec, dropped: Dropping): LimitChain[] {
  return [
    {
      name: "unredirected",
      priority: null,
      rules: [exemptReturn, dropRule("", [], dropped("unredirected"))],
    },
    // After the redirect (-100) and after the block (0), whose reset is what users are to see.
    { name: "late", priority: 10, rules: synsTo([...Object.values(METADATA), ...agents], "unredirected") },
  ];
}

/** The rules that match the first packet of a connection to the metadata address, for both families. */
const metadataSyns = (chain: string): LimitRule[] => synsTo(Object.values(METADATA), chain);

/** The rules that match the first packet of a connection to each of these. */
const synsTo = (endpoints: readonly Endpoint[], chain: string): LimitRule[] =>
  endpoints.map(({ address, port }) => {
    const bytes = parseAddress(address);
    if (bytes === null) throw new Error(`${address} is no address`);
    const ip = bytes.length === 4 ? "ip" : "ip6";
    return rule(
      `${ip} daddr ${address} tcp dport ${port} tcp flags & (syn | ack) == syn jump ${chain}`,
      is.synTo(bytes, port),
      is.jump(chain),
    );
  });

const chainOf = (prefix: string, { first }: SubordinateShare): string => `${prefix}_${first}`;

function rangesOf(shares: readonly SubordinateShare[], prefix: string): RangeVerdict[] {
  return shares
    .flatMap((share) => share.ranges.map(([first, last]) => ({ first, last, chain: chainOf(prefix, share) })))
    .sort((a, b) => a.first - b.first);
}

/** The rule that sends subordinate uids to their owner's chain. */
function toShares(map: string): LimitRule {
  return rule(`meta skuid vmap @${map}`, is.socketUid, is.verdictOf(map));
}

/**
 * Limits how fast users fill the proxy's accept queue, in which no user has reserved places. Each user has a token bucket of
 * their own; new connections beyond it take tokens from one bucket that all users share.
 */
function newConnections(
  spec: LimitsSpec,
  { user, own, everyone }: NewConnections,
  sets: LimitSet[],
  chains: LimitChain[],
  dropped: Dropping,
): LimitRule[] {
  sets.push({ kind: "rates", name: "new_rates" }, { kind: "rates", name: "new_own" });
  chains.push({
    name: "new_everyone",
    priority: null,
    rules: [dropRule(rateText(everyone), [is.over(everyone)], dropped("new_everyone"))],
  });
  const overRate = dropRule(rateText(user), [is.over(user)], dropped("new_user"));
  const overOwn = rule(`${rateText(own)} goto new_everyone`, is.over(own), is.goTo("new_everyone"));
  for (const share of spec.subordinates) {
    chains.push({ name: chainOf("new", share), priority: null, rules: [overRate, overOwn] });
  }
  const shares = spec.subordinates.length > 0;
  if (shares)
    sets.push({ kind: "ranges", name: "new_subordinate", ranges: rangesOf(spec.subordinates, "new") });
  chains.push({
    name: "new_connection",
    priority: null,
    rules: [
      exemptReturn,
      ...(shares ? [toShares("new_subordinate")] : []),
      dropRule(
        `update @new_rates { meta skuid ${rateText(user)} }`,
        [is.socketUid, is.overFor("new_rates", user)],
        dropped("new_user"),
      ),
      rule(
        `update @new_own { meta skuid ${rateText(own)} } goto new_everyone`,
        is.socketUid,
        is.overFor("new_own", own),
        is.goTo("new_everyone"),
      ),
      rule("meta skuid 1-4294967294 return", is.anyUidButRoot, is.goBack),
      // Packets without a uid, of all users together. See `nobody` in trackedConnections().
      overRate,
      overOwn,
    ],
  });
  return metadataSyns("new_connection");
}

/** Limits users' tracked connections. Root and all users share conntrack's table, and the kernel itself lets one user fill it. */
function trackedConnections(
  spec: LimitsSpec,
  { user, everyone }: NonNullable<LimitsSpec["tracked"]>,
  shortTimes: boolean,
  sets: LimitSet[],
  chains: LimitChain[],
  dropped: Dropping,
): void {
  const ofUser = spread(user.live, MOST_LISTS_OF_USER);
  const ofAll = spread(everyone.live, MOST_LISTS);
  sets.push(
    { kind: "rates", name: "rates" },
    { kind: "counts", name: "counts", plain: spec.plainKeys === true },
  );
  sets.push({ kind: "count", name: "nobodys" }, { kind: "count", name: "everyones" });

  /** `add @SET { ct id & MASK ct count over N } drop` */
  const overCount = (set: string, { lists, each }: typeof ofAll, kind: DropKind) =>
    dropRule(
      `add @${set} { ct id & ${lists - 1} ct count over ${each} }`,
      [is.chance(lists, REG.R1), is.countOverFor(set, each)],
      dropped(kind),
    );
  /** The same with a key that depends on the uid. */
  const overUserCount = (key: string, load: Attribute | readonly Attribute[]) =>
    dropRule(
      `add @counts { ${key} . ct id & ${ofUser.lists - 1} ct count over ${ofUser.each} }`,
      [load, is.chance(ofUser.lists, REG.R1_SECOND), is.countOverFor("counts", ofUser.each)],
      dropped("tracked_user"),
    );
  const overRate = dropRule(rateText(user.begun), [is.over(user.begun)], dropped("tracked_user"));
  const toAll = rule("goto all_users", is.goTo("all_users"));

  chains.push({
    name: "all_users",
    priority: null,
    rules: [
      dropRule(rateText(everyone.begun), [is.over(everyone.begun)], dropped("tracked_everyone")),
      overCount("everyones", ofAll, "tracked_everyone"),
      // The counts above leave out closed connections (nf_conncount.c, already_closed), which stay in the table for two more
      // minutes: 14,000 connections a second that are closed at once would fill it.
      ...(shortTimes
        ? [rule(`meta l4proto tcp ct timeout set "${SHORT_TIMES}"`, is.isTcp, is.useTimeout(SHORT_TIMES))]
        : []),
    ],
  });
  // Packets without a uid. A socket that the kernel itself makes for a user's socket has no file, so `meta skuid` does not match:
  // SMC's TCP sockets, and MPTCP's subflows after the first (which has the uid, tried on 6.1 and 6.18). Together they have the
  // share of one user. The kernel's own clients (NFS, Lustre) use ports below 1024, which no user can have, and have no limit.
  chains.push({
    name: "nobody",
    priority: null,
    rules: [overRate, overCount("nobodys", ofUser, "tracked_user"), toAll],
  });
  for (const share of spec.subordinates) {
    chains.push({
      name: chainOf("share", share),
      priority: null,
      rules: [
        overRate,
        overUserCount(`meta skuid & 0 ^ ${share.first}`, is.constantForUid(share.first)),
        toAll,
      ],
    });
  }
  const shares = spec.subordinates.length > 0;
  if (shares)
    sets.push({ kind: "ranges", name: "subordinate", ranges: rangesOf(spec.subordinates, "share") });
  chains.push({
    name: "tracked",
    priority: null,
    rules: [
      exemptReturn,
      ...(shares ? [toShares("subordinate")] : []),
      dropRule(
        `update @rates { meta skuid ${rateText(user.begun)} }`,
        [is.socketUid, is.overFor("rates", user.begun)],
        dropped("tracked_user"),
      ),
      overUserCount("meta skuid", is.socketUid),
      rule("meta skuid 1-4294967294 goto all_users", is.anyUidButRoot, is.goTo("all_users")),
      rule("tcp sport >= 1024 goto nobody", is.fromUnprivilegedPort, is.goTo("nobody")),
    ],
  });
}

/** The table as nft(8) reads it, for people, and for the test that compares it with the expressions. */
export function tableText(table: LimitsTable): string {
  const lines = [`table inet ${TABLE_NAME} {`];
  if (table.shortTimes) {
    lines.push(`  ct timeout ${SHORT_TIMES} {`, "    protocol tcp;", "    l3proto ip;");
    lines.push(`    policy = { time_wait : ${CLOSED_SECONDS}, close : ${CLOSED_SECONDS} };`, "  }");
  }
  if (table.counters) lines.push(...DROP_KINDS.map((kind) => `  counter ${kind} { packets 0 bytes 0; }`));
  for (const set of table.sets) lines.push(...setText(set).map((line) => `  ${line}`));
  for (const { name, priority, rules } of table.chains) {
    lines.push(`  chain ${name} {`);
    if (priority !== null) lines.push(`    type filter hook output priority ${priority}; policy accept;`);
    lines.push(...rules.map(({ text }) => `    ${text}`), "  }");
  }
  lines.push("}");
  return `${lines.join("\n")}\n`;
}

function setText(set: LimitSet): string[] {
  const body = (kind: "set" | "map", ...lines: string[]) => [
    `${kind} ${set.name} {`,
    ...lines.map((line) => `  ${line}`),
    "}",
  ];
  switch (set.kind) {
    case "uids":
      return body("set", "type uid;", `elements = { ${set.uids.join(", ")} };`);
    case "ranges": {
      const elements = set.ranges.map(({ first, last, chain }) => `${first}-${last} : goto ${chain}`);
      return body("map", "type uid : verdict;", "flags interval;", `elements = { ${elements.join(", ")} };`);
    }
    case "rates":
      return body("set", "type uid;", `size ${MOST_USERS};`, "flags dynamic;", `timeout ${RATE_SECONDS}s;`);
    case "counts":
      return body(
        "set",
        set.plain ? "type uid . mark;" : "typeof meta skuid . ct id;",
        `size ${MOST_COUNTS};`,
        "flags dynamic;",
      );
    case "count":
      return body("set", "typeof ct id;", `size ${MOST_LISTS};`, "flags dynamic;");
  }
}
