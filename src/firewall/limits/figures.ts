import type { Config } from "../../config/schema.ts";
import type { Rate } from "../../platform/token-bucket.ts";

/**
 * How much of the kernel's shared tables one user, and all users together, may take. Pure.
 *
 * A tracked connection is in the kernel's table until it is closed, and some time after. Both parts have a limit: those
 * that live are counted, and those that are closed are bounded by how fast new ones begin.
 */

/** A limit of connections that are tracked at a time. */
export interface Tracked {
  /** Connections that are not closed. */
  readonly live: number;
  /** How fast tracked connections begin. */
  readonly begun: Rate;
}

/** How fast connections to the metadata address may begin. */
export interface NewConnections {
  /** The most of one user. */
  readonly user: Rate;
  /** What each user may begin whatever the others do. */
  readonly own: Rate;
  /** All users together, what is their own left out. */
  readonly everyone: Rate;
}

/** Subordinate uids of one owner (/etc/subuid), which have one share together. */
export interface SubordinateShare {
  /** Names the share: the lowest of its uids. */
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
}

/** A job of 4,000 processes, of which each has three requests under way. */
const LARGE_JOB = 12_288;
/** What nf_conntrack_max is taken for where conntrack is not there yet: a node of 4 GiB has it. */
const ASSUMED_MAX = 65_536;
/** Each share has chains of its own; a table of thousands would take seconds to write and to compare. */
export const MOST_SHARES = 256;

/**
 * Connections that nobody has accepted yet wait in one queue of 4,096 (BACKLOG in src/http/server.ts, net.core.somaxconn),
 * which has no places of each user's. What finds it full is dropped, and its client tries again a second later. So all users
 * together begin no more at once than the queue holds. Each user's own part leaves it room: those who ask a few times are
 * served while others flood, and eight floods at once still fit.
 */
const SHARED_PLACES = 3_584;
const OWN_PLACES = 64;

/** @param user what the configuration has: `limits.newConnectionsPerUser`. */
function newConnections(user: Rate): NewConnections {
  return {
    user,
    own: { perSecond: Math.max(1, Math.floor(user.perSecond / 8)), burst: Math.min(user.burst, OWN_PLACES) },
    // Twice a user's: while one floods, others have as much again.
    everyone: { perSecond: 2 * user.perSecond, burst: Math.min(user.burst, SHARED_PLACES) },
  };
}

/**
 * What the configuration means on a node.
 *
 * Of a table of M entries: a user's live connections are M/16, those of all users together 3/8 M. What is closed stays for
 * {@link CLOSED_SECONDS}: M/16 and 5/64 M for a user, M/8 and 5/32 M for all. So all users together leave more than a
 * fifth of the table to root and to the service, and one user leaves four fifths to the others.
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
  };
}

/** How long a user's closed TCP connection stays in the table, in seconds; the kernel's own time is 120. */
export const CLOSED_SECONDS = 5;

/** How a count is spread over lists, and the limit of each. */
export interface Spread {
  /** A power of two. */
  readonly lists: number;
  readonly each: number;
}

/** The length of a list at the limit, about. */
const LIST_LENGTH = 128;

/**
 * The kernel walks the whole list of a count at each new connection, some 0.4 µs an entry: with one list of 16,384
 * entries that would be 6 ms under a lock. So connections are spread by chance over many short lists, of which each has its
 * part of the limit and four standard deviations on top, so that nobody below the limit finds a list full.
 */
export function spread(live: number, mostLists: number): Spread {
  let lists = 1;
  while (lists < mostLists && live / lists > LIST_LENGTH) lists *= 2;
  const mean = live / lists;
  return { lists, each: lists === 1 ? live : Math.ceil(mean + 4 * Math.sqrt(mean)) };
}

/**
 * One share for each owner of subordinate uids: sorted, without overlap. Owners whose ranges overlap have one together, and
 * so have those who are over {@link MOST_SHARES}.
 */
export function subordinateShares(
  ranges: readonly { readonly owner: string; readonly first: number; readonly last: number }[],
): SubordinateShare[] {
  const sorted = ranges
    .filter(({ first, last }) => first > 0 && first <= last && last <= LAST_UID)
    .sort((a, b) => a.first - b.first || a.last - b.last);
  // Each owner's name leads to that of another with whom the share is one, or to nothing.
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
