import { ImdsProxyError } from "../../errors.ts";
import { bytesOf, find, text, textOf, u32, u32Of, u64Of, walkAttributes } from "../nftables/attributes.ts";
import { type ReadMessage, readBody } from "../nftables/batch.ts";
import {
  COUNTER,
  ELEM,
  ELEM_FLAG,
  ELEM_LIST,
  MSG,
  NFPROTO,
  OBJECT,
  OBJECT_COUNTER,
  RULE,
  TABLE,
} from "../nftables/names.ts";
import { NftError, NftSocket } from "../nftables/socket.ts";
import { hostOrder, networkOrder } from "./expressions.ts";
import type { LimitsSpec } from "./figures.ts";
import { commentOf, fingerprint, removeMessages, replaceMessages } from "./messages.ts";
import {
  type Abilities,
  DROP_KINDS,
  type DropKind,
  type LimitSet,
  type LimitsTable,
  limitsTable,
  TABLE_NAME,
  tableText,
} from "./table.ts";

/**
 * The edge to the kernel's table of limits. No function here waits, starts a process or looks up a name. Where the kernel has
 * no nf_tables, or lacks a part of it, the functions report what is missing and the rest of the firewall works without it.
 */

export { TABLE_NAME };

/** The present table compared with the wanted one. */
export interface LimitsStatus {
  /** A line for each thing that is wrong. */
  readonly problems: readonly string[];
  /** A line for each thing that this kernel cannot do, with the consequence. */
  readonly notes: readonly string[];
}

/** The variants of the table that are tried, from the whole table to the smallest useful one. */
const RUNGS = [
  { count: true, shortTimes: true, notes: [] },
  {
    count: true,
    shortTimes: false,
    notes: [
      "this kernel cannot shorten the time for which closed connections are tracked (CONFIG_NF_CONNTRACK_TIMEOUT): " +
        "a user who opens and closes connections all the time can still fill the table of tracked connections",
    ],
  },
  {
    count: false,
    shortTimes: false,
    notes: [
      "this kernel cannot count tracked connections (nft_connlimit, from 4.18): " +
        "one user can fill the table of tracked connections",
    ],
  },
] as const;
const UNCOUNTED =
  "this kernel cannot count what the limits drop (nft_counter and nft_objref): no metric and no status shows it";
/** Each variant with counters of dropped packets, then without: a limit matters more than its counter. */
const LADDER: readonly (Abilities & { readonly notes: readonly string[] })[] = RUNGS.flatMap((rung) => [
  { ...rung, counters: true },
  { ...rung, counters: false, notes: [...rung.notes, UNCOUNTED] },
]);

const WITHOUT =
  "nf_tables cannot be used here: users' new and tracked connections have no limit, and packets with a routing header pass";

const textOfError = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Whether the kernel refused a request. Any other error is a fault of this program. */
const isRefusal = (error: unknown): boolean => error instanceof NftError || error instanceof ImdsProxyError;

/** Runs `work` with a socket of its own. */
function withSocket<T>(work: (socket: NftSocket) => T): T {
  const socket = new NftSocket();
  try {
    return work(socket);
  } finally {
    socket.close();
  }
}

/**
 * Like {@link limitsStatus}, for frequent use: reads nothing while no nf_tables rule of the node has changed since the table was
 * last found right.
 */
export function limitsLook(): (spec: LimitsSpec) => LimitsStatus {
  let right: {
    readonly generation: number;
    readonly spec: LimitsSpec;
    readonly status: LimitsStatus;
  } | null = null;
  return (spec) => {
    try {
      // Read before the table, so that a change in between is found the next time.
      const generation = withSocket((socket) => socket.generation());
      if (right?.generation === generation && right.spec === spec) return right.status;
      const status = limitsStatus(spec);
      right = status.problems.length === 0 ? { generation, spec, status } : null;
      return status;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return limitsStatus(spec);
    }
  };
}

/** Compares the table with the wanted one, and changes nothing. Needs CAP_NET_ADMIN. */
export function limitsStatus(spec: LimitsSpec): LimitsStatus {
  try {
    return withSocket((socket) => {
      const found = read(socket);
      for (const { notes, ...abilities } of LADDER) {
        if (same(limitsTable(spec, abilities), found)) return { problems: [], notes };
      }
      const state = found === null ? "is missing" : "is not as it should be";
      return { problems: [`nf_tables: the table inet ${TABLE_NAME} ${state}`], notes: [] };
    });
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return { problems: [], notes: [`${WITHOUT} (${textOfError(error)})`] };
  }
}

/**
 * Replaces the table where it is not the wanted one.
 *
 * @returns whether something was changed, and what this kernel cannot do. A kernel that can do nothing is also only a note,
 *   because the rules that keep the instance role from users do not depend on the limits.
 */
export function applyLimits(spec: LimitsSpec): {
  readonly changed: boolean;
  readonly notes: readonly string[];
} {
  const before = limitsStatus(spec);
  if (before.problems.length === 0) return { changed: false, notes: before.notes };
  let last: unknown = null;
  for (const { notes, ...abilities } of LADDER) {
    try {
      withSocket((socket) => socket.transact(replaceMessages(limitsTable(spec, abilities))));
      return { changed: true, notes };
    } catch (error) {
      if (!isRefusal(error)) throw error;
      last = error;
    }
  }
  return { changed: false, notes: [`${WITHOUT} (${textOfError(last)})`] };
}

/** Deletes the table, except in a dry run. @returns whether there was one. */
export function removeLimits(dryRun = false): boolean {
  try {
    return withSocket((socket) => {
      if (read(socket) === null) return false;
      if (!dryRun) socket.transact(removeMessages());
      return true;
    });
  } catch (error) {
    // Without nf_tables or nfnetlink there is no table.
    if (error instanceof NftError && !error.has(EPERM)) return false;
    if (error instanceof ImdsProxyError && error.code === "missing") return false;
    throw error;
  }
}
const EPERM = 1;

/** Packets that the limits have dropped since the table was made. */
export type Dropped = Readonly<Record<DropKind, number>>;

/**
 * What the limits have dropped: one dump of six counters. Needs CAP_NET_ADMIN.
 *
 * @returns null where there is no table, where this kernel cannot count, and where it cannot be asked.
 */
export function droppedPackets(): Dropped | null {
  try {
    const found = withSocket((socket) =>
      socket.dump(MSG.GETOBJ, NFPROTO.INET, [
        text(OBJECT.TABLE, TABLE_NAME),
        u32(OBJECT.TYPE, OBJECT_COUNTER),
      ]),
    );
    const packets = new Map(found.map((message) => [nameIn(message, OBJECT.NAME), packetsIn(message)]));
    const counts = DROP_KINDS.map((kind) => [kind, packets.get(kind) ?? null] as const);
    return counts.some(([, count]) => count === null) ? null : (Object.fromEntries(counts) as Dropped);
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return null;
  }
}

function packetsIn(message: ReadMessage): number | null {
  const data = find(readBody(message)?.attributes ?? [], OBJECT.DATA);
  const packets = u64Of(find((data && walkAttributes(data)) ?? [], COUNTER.PACKETS));
  return packets === null ? null : Number(packets);
}

/** Whether the table exists; false where that cannot be found out. */
export function limitsThere(): boolean {
  try {
    return withSocket(read) !== null;
  } catch {
    return false;
  }
}

/** The wanted table as input for nft(8). */
export const limitsText = (spec: LimitsSpec): string => `# nft -f -\n${tableText(limitsTable(spec))}`;
/** The input for nft(8) that deletes the table. */
export const removalText = `# nft delete table inet ${TABLE_NAME}\n`;

/** The parts of the table that are compared: each rule's comment, by chain, and the keys of our sets in hexadecimal. */
interface FoundTable {
  readonly rules: ReadonlyMap<string, readonly (string | null)[]>;
  keysOf(set: string): readonly string[];
}

function read(socket: NftSocket): FoundTable | null {
  const named = socket
    .dump(MSG.GETTABLE, NFPROTO.INET)
    .some((message) => nameIn(message, TABLE.NAME) === TABLE_NAME);
  if (!named) return null;
  const rules = new Map<string, (string | null)[]>();
  for (const message of socket.dump(MSG.GETRULE, NFPROTO.INET, [text(RULE.TABLE, TABLE_NAME)])) {
    const chain = nameIn(message, RULE.CHAIN);
    const userdata = find(readBody(message)?.attributes ?? [], RULE.USERDATA);
    const before = rules.get(chain);
    const comment = userdata === undefined ? null : commentOf(bytesOf(userdata));
    if (before === undefined) rules.set(chain, [comment]);
    else before.push(comment);
  }
  return {
    rules,
    keysOf: (set) =>
      socket
        .dump(MSG.GETSETELEM, NFPROTO.INET, [text(ELEM_LIST.TABLE, TABLE_NAME), text(ELEM_LIST.SET, set)])
        .flatMap(keysIn),
  };
}

const nameIn = (message: ReadMessage, type: number): string => {
  const payload = find(readBody(message)?.attributes ?? [], type);
  return payload === undefined ? "" : textOf(payload);
};

/** The keys in one message of a dump, without those that end a range. */
function keysIn(message: ReadMessage): string[] {
  const list = find(readBody(message)?.attributes ?? [], ELEM_LIST.ELEMENTS);
  const found: string[] = [];
  for (const { payload } of (list && walkAttributes(list)) ?? []) {
    const element = walkAttributes(payload) ?? [];
    if (((u32Of(find(element, ELEM.FLAGS)) ?? 0) & ELEM_FLAG.INTERVAL_END) !== 0) continue;
    const key = find(element, ELEM.KEY);
    const [value] = (key && walkAttributes(key)) ?? [];
    if (value !== undefined) found.push(Buffer.from(bytesOf(value.payload)).toString("hex"));
  }
  return found;
}

function same(table: LimitsTable, found: FoundTable | null): boolean {
  if (found === null) return false;
  const comment = fingerprint(table);
  if (found.rules.size !== table.chains.length) return false;
  const rules = table.chains.every(({ name, rules }) => {
    const there = found.rules.get(name) ?? [];
    return there.length === rules.length && there.every((one) => one === comment);
  });
  if (!rules) return false;
  return table.sets.every((set) => {
    const wanted = keysOfSet(set);
    return wanted === null || wanted.toSorted().join() === found.keysOf(set.name).toSorted().join();
  });
}

/** The keys with which a set is created, in hexadecimal; null for a set that rules fill. */
function keysOfSet(set: LimitSet): string[] | null {
  const hex = (bytes: readonly number[]) => Buffer.from(bytes).toString("hex");
  if (set.kind === "uids") return set.uids.map((uid) => hex(hostOrder(uid)));
  if (set.kind === "ranges") return set.ranges.map(({ first }) => hex(networkOrder(first)));
  return null;
}
