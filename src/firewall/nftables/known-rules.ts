import type { Family, TableName, WantedTable } from "../types.ts";
import { find, text, textOf } from "./attributes.ts";
import { readBody } from "./batch.ts";
import { CHAIN, MSG, NFPROTO, RULE } from "./names.ts";
import {
  capture,
  chainsOf,
  type FoundChain,
  type FoundTable,
  readBaseHook,
  readRule,
  replay,
  type Snapshot,
} from "./snapshot.ts";
import { NftError, NftSocket } from "./socket.ts";

/** Reads and restores our rules in nf_tables through a netlink socket, without a process, a thread or a look-up of a name. An edge. */

const NFPROTO_OF: Readonly<Record<Family, number>> = { ipv4: NFPROTO.IPV4, ipv6: NFPROTO.IPV6 };
/** The kernel's error where the rule set changed between reading and writing: nothing was done, and it must be read again. */
const ERESTART = 85;
/** Attempts, where other programs change the rule set all the time. */
const TRIES = 50;

interface Chains {
  readonly family: Family;
  readonly table: TableName;
  readonly chains: readonly string[];
}

/** Reads chains of some tables. */
function readTables(
  socket: NftSocket,
  wanted: readonly Chains[],
): (family: Family, table: TableName) => FoundTable {
  const tables = new Map<string, Map<string, FoundChain>>();
  const key = (family: Family, table: string) => `${family} ${table}`;
  for (const family of new Set(wanted.map((one) => one.family))) {
    for (const message of socket.dump(MSG.GETCHAIN, NFPROTO_OF[family])) {
      const attributes = readBody(message)?.attributes ?? [];
      const table = textOf(find(attributes, CHAIN.TABLE) ?? EMPTY);
      const name = textOf(find(attributes, CHAIN.NAME) ?? EMPTY);
      const one = wanted.find((each) => each.family === family && each.table === table);
      if (one === undefined || !one.chains.includes(name)) continue;
      const rules = socket
        .dump(MSG.GETRULE, NFPROTO_OF[family], [text(RULE.TABLE, table), text(RULE.CHAIN, name)])
        // A kernel that does not filter dumps sends all objects.
        .map((rule) => readBody(rule)?.attributes ?? [])
        .filter((rule) => textOf(find(rule, RULE.CHAIN) ?? EMPTY) === name)
        .filter((rule) => textOf(find(rule, RULE.TABLE) ?? EMPTY) === table)
        .map(readRule);
      if (rules.some((rule) => rule === null)) throw new NftError(`cannot read the chain ${name}`, []);
      const chains = tables.get(key(family, table)) ?? new Map<string, FoundChain>();
      chains.set(name, { hook: readBaseHook(attributes), rules: rules.filter((rule) => rule !== null) });
      tables.set(key(family, table), chains);
    }
  }
  return (family, table) => tables.get(key(family, table)) ?? new Map();
}

const EMPTY = new DataView(new ArrayBuffer(0));

/** Runs `work` with a socket of its own. @throws ImdsProxyError `missing` where there is no nfnetlink. */
function withSocket<T>(work: (socket: NftSocket) => T): T {
  const socket = new NftSocket();
  try {
    return work(socket);
  } finally {
    socket.close();
  }
}

/** NFTA_GEN_ID of the rule set; null where the kernel has no nf_tables. */
export function rulesGeneration(): number | null {
  try {
    return withSocket((socket) => socket.generation());
  } catch {
    return null;
  }
}

/**
 * Takes a snapshot of the rules, which the caller has found right.
 *
 * @param generation what {@link rulesGeneration} returned before that. Other programs may have changed the rules since.
 * @returns null where they are not in nf_tables, or not as they were.
 */
export function captureRules(wanted: readonly WantedTable[], generation: number): Snapshot | null {
  return withSocket((socket) => {
    const found = readTables(
      socket,
      wanted.map(({ family, table, chains, hooks }) => ({
        family,
        table,
        chains: [...chains.map(({ name }) => name), ...hooks.map(({ from }) => from)],
      })),
    );
    const snapshot = capture(wanted, found);
    return socket.generation() === generation ? snapshot : null;
  });
}

/**
 * Restores what differs from the snapshot, in one transaction.
 *
 * @returns a line for each difference; none where there was none.
 * @throws NftError where the kernel refuses.
 */
export function restoreRules(snapshot: Snapshot): readonly string[] {
  const wanted = chainsOf(snapshot);
  return withSocket((socket) => {
    for (let attempt = 1; ; attempt++) {
      const generation = socket.generation();
      const { problems, messages } = replay(snapshot, readTables(socket, wanted));
      if (messages.length === 0) return problems;
      try {
        socket.transact(messages, attempt < TRIES ? generation : null);
        return problems;
      } catch (error) {
        if (!(error instanceof NftError && error.has(ERESTART)) || attempt > TRIES) throw error;
      }
    }
  });
}
