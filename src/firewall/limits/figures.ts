import type { Config } from "../../config/schema.ts";
import type { Endpoint } from "../../identity/endpoint.ts";
import type { Rate } from "../../platform/token-bucket.ts";

/**
 * How much of the kernel's shared tables one user, and all users together, may take. Pure.
 *
 * A tracked connection stays in conntrack's table for some time after it is closed. Both kinds have a limit: open connections
 * are counted, and closed ones are limited by the rate at which new ones begin.
 */

/** A limit of connections that are tracked at a time. */
export interface Tracked {
  /** The number of open connections. */
  readonly live: number;
  /** The rate of new tracked connections. */
  readonly begun: Rate;
}

/** The rate of new connections to the metadata address. */
export interface NewConnections {
  /** The limit of one user. */
  readonly user: Rate;
  /** What each user may begin whatever others do. */
  readonly own: Rate;
  /** What all users together may begin beyond `own`. */
  readonly everyone: Rate;
}

/** The subordinate uids of one owner (/etc/subuid), which share the limits of one user. */
export interface SubordinateShare {
  /** The lowest of its uids, by which the share is named. */
  readonly first: number;
  readonly ranges: readonly (readonly [first: number, last: number])[];
}

/** Everything that the table of limits depends on. */
export interface LimitsSpec {
  /** Uids without a limit. */
  readonly exemptUids: readonly number[];
  readonly subordinates: readonly SubordinateShare[];
  /** Connections to the metadata address that begin; null for no limit. */
  readonly newConnections: NewConnections | null;
  /** null for no limit. */
  readonly tracked: { readonly user: Tracked; readonly everyone: Tracked } | null;
  /**
   * True where nft(8) before 1.0.6 must be able to list the table: 0.9.8 takes the length of an integer in a concatenated key for
   * 0, and aborts (mergesort.c, concat_expr_msort_value), also in `nft list ruleset`. Such a table cannot be read back from a
   * listing.
   */
  readonly plainKeys?: true;
  /** Where else than at the metadata address the instance role is given, beside the filter of iptables: that may be flushed. */
  readonly agents?: readonly Endpoint[];
}

/** The connections of a job of 4,000 processes with three requests each, rounded up. */
const LARGE_JOB = 12_288;
/** The nf_conntrack_max that is assumed where conntrack is not loaded yet: the value on a node of 4 GiB. */
const ASSUMED_MAX = 65_536;
/** The most shares. Each has its own chains, and a table with thousands of chains would take seconds to write and to compare. */
export const MOST_SHARES = 256;

/**
 * The proxy's accept queue has 4,096 places (BACKLOG in src/http/server.ts, net.core.somaxconn), none of them reserved. The
 * kernel drops a SYN that finds it full, and the client sends it again a second later. So the shared bucket lets all users
 * together begin fewer connections at once than the queue holds. The rest of the queue is for the users' own buckets: users
 * with few requests are served while others flood, and eight users' own buckets fit.
 */
const SHARED_PLACES = 3_584;
const OWN_PLACES = 64;

/** @param user `limits.newConnectionsPerUser` of the configuration. */
function newConnections(user: Rate): NewConnections {
  return {
    user,
    own: { perSecond: Math.max(1, Math.floor(user.perSecond / 8)), burst: Math.min(user.burst, OWN_PLACES) },
    // Twice a user's rate, so that others have as much again while one user floods.
    everyone: { perSecond: 2 * user.perSecond, burst: Math.min(user.burst, SHARED_PLACES) },
  };
}

/**
 * Computes the limits of a node from its configuration.
 *
 * In a table of M entries, one user may have M/16 open connections, and all users together 3/8 M. Closed ones stay for
 * {@link CLOSED_SECONDS}: M/16 and 5/64 M for a user, M/8 and 5/32 M for all. So all users together leave more than a fifth
 * of the table to root and to the service, and one user leaves four fifths to the others.
 *
 * @param conntrackMax net.netfilter.nf_conntrack_max; null where it cannot be read.
 * @param subordinates from /etc/subuid, as {@link subordinateShares} makes them.
 */
export function limitsSpec(
  limits: Pick<Config["limits"], "newConnectionsPerUser" | "trackedConnectionsPerUser">,
  node: {
    readonly exemptUids: readonly number[];
    readonly conntrackMax: number | null;
    readonly subordinates: readonly SubordinateShare[];
    readonly plainKeys?: boolean;
    readonly agents?: readonly Endpoint[];
  },
): LimitsSpec {
  const max = node.conntrackMax ?? ASSUMED_MAX;
  const wanted = limits.trackedConnectionsPerUser;
  const live =
    wanted === "auto" ? Math.max(Math.floor(max / 16), Math.min(LARGE_JOB, Math.floor(max / 4)), 1) : wanted;
  const share = (part: number) => Math.max(1, Math.floor(max * part));
  return {
    exemptUids: node.exemptUids,
    subordinates: node.subordinates,
    newConnections:
      limits.newConnectionsPerUser === null ? null : newConnections(limits.newConnectionsPerUser),
    tracked:
      live === null
        ? null
        : {
            user: { live, begun: { perSecond: Math.max(1, Math.floor(live / 4)), burst: live } },
            everyone: { live: share(3 / 8), begun: { perSecond: share(1 / 32), burst: share(1 / 8) } },
          },
    ...(node.plainKeys === true ? { plainKeys: true } : {}),
    ...(node.agents === undefined ? {} : { agents: node.agents }),
  };
}

/** The seconds for which a user's closed TCP connection stays in the table; the kernel's default is 120. */
export const CLOSED_SECONDS = 5;

/** The lists over which a count is spread, and the limit of each. */
export interface Spread {
  /** A power of two. */
  readonly lists: number;
  readonly each: number;
}

/** The approximate length of a list when the limit is reached. */
const LIST_LENGTH = 128;

/**
 * Computes how to spread a count. The kernel walks the whole list of a count at each new connection, about 0.4 µs an entry:
 * one list of 16,384 entries would take 6 ms under a lock. So connections are spread at random over many short lists. Each
 * has its part of the limit plus four standard deviations, so that a user below the limit finds no list full.
 */
export function spread(live: number, mostLists: number): Spread {
  let lists = 1;
  while (lists < mostLists && live / lists > LIST_LENGTH) lists *= 2;
  const mean = live / lists;
  return { lists, each: lists === 1 ? live : Math.ceil(mean + 4 * Math.sqrt(mean)) };
}

/**
 * Makes a share for each owner of subordinate uids, sorted and without overlap. Owners whose ranges overlap have one share
 * together, and so have all owners beyond {@link MOST_SHARES}.
 */
export function subordinateShares(
  ranges: readonly { readonly owner: string; readonly first: number; readonly last: number }[],
): SubordinateShare[] {
  const sorted = ranges
    .filter(({ first, last }) => first > 0 && first <= last && last <= LAST_UID)
    .sort((a, b) => a.first - b.first || a.last - b.last);
  // Union-find: each owner's name leads to that of another owner with whom the share is joined, or to nothing.
  const leads = new Map<string, string>();
  const leaderOf = (owner: string): string => {
    let at = owner;
    for (let next = leads.get(at); next !== undefined; next = leads.get(at)) at = next;
    return at;
  };
  const blocks: { first: number; last: number; readonly owner: string }[] = [];
  for (const { owner, first, last } of sorted) {
    const before = blocks.at(-1);
    if (before === undefined || first > before.last) {
      blocks.push({ first, last, owner });
      continue;
    }
    before.last = Math.max(before.last, last);
    const [one, other] = [leaderOf(owner), leaderOf(before.owner)];
    if (one !== other) leads.set(one, other);
  }
  const byOwner = new Map<string, [number, number][]>();
  for (const { first, last, owner } of blocks) {
    let leader = leaderOf(owner);
    const isOneTooMany = !byOwner.has(leader) && byOwner.size >= MOST_SHARES;
    if (isOneTooMany) leader = [...byOwner.keys()].at(-1) ?? leader;
    byOwner.set(leader, [...(byOwner.get(leader) ?? []), [first, last]]);
  }
  return [...byOwner.values()].map((mine) => ({ first: mine[0]?.[0] ?? 0, ranges: mine }));
}

/** 4294967295 is (uid_t)-1, which is no uid. */
const LAST_UID = 4_294_967_294;
