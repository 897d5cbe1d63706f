import { addressText } from "../identity/address.ts";
import type { DiagSocket, Tuple } from "../identity/netlink/inet-diag.ts";
import { slurmJobNameOf } from "../identity/slurm-cgroup.ts";
import { TokenBucket } from "../platform/token-bucket.ts";
import type { CallerCount, CallerKey, Callers } from "./callers.ts";
import { Connections } from "./connections.ts";
import type { LoggedPacket } from "./nflog.ts";
import { parsePacket } from "./packet.ts";
import { placeOf } from "./place.ts";
import type { FoundProcess } from "./processes.ts";

/** Turns logged packets into counts by caller. */

/** What the kernel and /proc tell about the sender of a packet; the edges implement it. */
export interface Evidence {
  socket(tuple: Tuple, outInterface: number | null): DiagSocket | null;
  /** The path of a cgroup below its mount; null where it is gone, or cannot be told. */
  cgroupPath(id: bigint): string | null;
  /** The processes in a cgroup, the newest first. */
  processesIn(cgroup: string): readonly number[];
  withSocket(inode: number, pids: readonly number[]): FoundProcess | null;
  /** Whether a process found before is the same, runs the same program and has this socket. */
  hasSocket(found: FoundProcess, inode: number): boolean;
}

/** What is known of the sender of a connection. */
interface Sender {
  readonly key: CallerKey;
  readonly cgroup: string | null;
  readonly process: FoundProcess | null;
}

/** A connection's caller. */
interface Kept {
  sender: Sender;
  caller: CallerCount;
}

const UNKNOWN_PROGRAM = "unknown";
/**
 * How often processes are searched for: a search looks at up to 128 processes, and users choose how many they have. For a share
 * (a user with their subordinate uids), and for all together.
 */
const SEARCHES_OF_SHARE = { perSecond: 50, burst: 400 };
const SEARCHES = { perSecond: 500, burst: 2_000 };
/** Shares whose buckets are kept. */
const MOST_SHARES = 4_096;
/** The most processes that are remembered for each pair of user and cgroup, and the most such pairs. */
const REMEMBERED = 4;
const MOST_REMEMBERED = 4_096;

export class Observer {
  readonly #evidence: Evidence;
  readonly #callers: Callers;
  readonly #nowMs: () => number;
  readonly #shareOf: (uid: number) => string | number;
  readonly #onProcess: (caller: CallerCount, process: FoundProcess) => void;
  readonly #connections = new Connections<Kept>();
  readonly #searches = new TokenBucket(SEARCHES, 0);
  readonly #searchesOf = new Map<string | number, TokenBucket>();
  readonly #recent = new Map<string, FoundProcess[]>();
  /** Packets that are no TCP segment that could be read. */
  unread = 0;

  /**
   * @param options.nowMs milliseconds since the epoch.
   * @param options.onProcess called where a process of a caller was found whose arguments are not known.
   */
  constructor(options: {
    evidence: Evidence;
    callers: Callers;
    nowMs: () => number;
    shareOf: (uid: number) => string | number;
    onProcess: (caller: CallerCount, process: FoundProcess) => void;
  }) {
    this.#evidence = options.evidence;
    this.#callers = options.callers;
    this.#nowMs = options.nowMs;
    this.#shareOf = options.shareOf;
    this.#onProcess = options.onProcess;
  }

  take(packet: LoggedPacket): void {
    const segment = parsePacket(packet.bytes);
    if (segment === null) {
      this.unread++;
      return;
    }
    const noted = this.#connections.note(segment);
    if (noted === null) return;
    const { connection, opens, request } = noted;
    connection.kept ??= this.#begin(packet, segment.tuple);
    const kept = connection.kept;
    const nowMs = this.#nowMs();
    if (opens) kept.caller.connections++;
    if (request !== null) {
      this.#lookAgain(kept, packet, segment.tuple, opens || connection.begun !== null);
      kept.caller.request(request);
    }
    kept.caller.touch(nowMs);
  }

  #begin(packet: LoggedPacket, tuple: Tuple): Kept {
    const sender = this.#identify(packet, tuple);
    const caller = this.#callers.of(sender.key);
    this.#tell(caller, sender);
    return { sender, caller };
  }

  #tell(caller: CallerCount, { cgroup, process }: Sender): void {
    if (cgroup !== null) {
      caller.cgroup = cgroup;
      const job = slurmJobNameOf(cgroup);
      if (job !== null) caller.job(job);
    }
    if (process === null) return;
    if (caller.parents.length === 0) caller.parents = process.parents;
    if (caller.arguments === null) this.#onProcess(caller, process);
  }

  /** Looks for the program again with a request, where it was not found when the connection began. */
  #lookAgain(kept: Kept, packet: LoggedPacket, tuple: Tuple, counted: boolean): void {
    if (kept.sender.process !== null || kept.sender.key.container !== null) return;
    const sender = this.#identify(packet, tuple);
    const isPlaced = kept.sender.key.place.kind !== "unknown" || sender.key.place.kind === "unknown";
    if (sender.process === null && isPlaced) return;
    const before = kept.caller;
    kept.sender = sender;
    kept.caller = this.#callers.of(sender.key);
    this.#tell(kept.caller, sender);
    if (kept.caller === before || !counted) return;
    before.connections--;
    kept.caller.connections++;
    this.#callers.drop(before);
  }

  #identify({ uid, outInterface }: LoggedPacket, tuple: Tuple): Sender {
    // The hook of packets from elsewhere has no outgoing interface.
    const isFromElsewhere = uid === null && outInterface === null;
    if (isFromElsewhere) {
      const container = addressText(tuple.sourceAddress);
      const key: CallerKey = { uid: null, container, place: { kind: "bridge" }, program: UNKNOWN_PROGRAM };
      return { key, cgroup: null, process: null };
    }
    const socket = this.#evidence.socket(tuple, outInterface);
    const cgroup =
      socket === null || socket.cgroupId === null ? null : this.#evidence.cgroupPath(socket.cgroupId);
    const process =
      socket === null || cgroup === null || uid === null ? null : this.#process(uid, socket, cgroup);
    return {
      key: { uid, container: null, place: placeOf(cgroup), program: process?.program ?? UNKNOWN_PROGRAM },
      cgroup,
      process,
    };
  }

  #process(uid: number, { inode, cgroupId }: DiagSocket, cgroup: string): FoundProcess | null {
    const place = `${uid} ${cgroupId}`;
    const recent = this.#recent.get(place) ?? [];
    for (const one of recent) if (this.#evidence.hasSocket(one, inode)) return one;
    if (!this.#maySearch(uid)) return null;
    const found = this.#evidence.withSocket(inode, this.#evidence.processesIn(cgroup));
    if (found !== null) this.#remember(place, [found, ...recent].slice(0, REMEMBERED));
    return found;
  }

  #remember(place: string, processes: FoundProcess[]): void {
    this.#recent.delete(place);
    this.#recent.set(place, processes);
    if (this.#recent.size > MOST_REMEMBERED) dropFirst(this.#recent);
  }

  #maySearch(uid: number): boolean {
    const share = this.#shareOf(uid);
    let bucket = this.#searchesOf.get(share);
    if (bucket === undefined) {
      bucket = new TokenBucket(SEARCHES_OF_SHARE, 0);
      if (this.#searchesOf.size >= MOST_SHARES) dropFirst(this.#searchesOf);
      this.#searchesOf.set(share, bucket);
    }
    const nowMs = this.#nowMs();
    if (bucket.waitMs(nowMs) > 0 || this.#searches.waitMs(nowMs) > 0) return false;
    bucket.take(nowMs);
    this.#searches.take(nowMs);
    return true;
  }
}

function dropFirst<K>(map: Map<K, unknown>): void {
  for (const key of map.keys()) {
    map.delete(key);
    return;
  }
}
