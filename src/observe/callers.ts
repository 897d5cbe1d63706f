import { type Place, placeText } from "./place.ts";
import { CREDENTIALS_CATEGORY, type SeenRequest, UNKNOWN_CATEGORY } from "./request.ts";

/** What was seen, by caller: bounded, whatever users do. Pure. */

/** What tells one caller from another. */
export interface CallerKey {
  /** Null for a container behind a bridge, and for a socket without a file. */
  readonly uid: number | null;
  /** The address of a container behind a bridge. */
  readonly container: string | null;
  readonly place: Place;
  /** The path of the executable, or `unknown`. */
  readonly program: string;
}

/** How often each of some texts was seen; the last, `(others)`, stands for those that are too many to be kept. */
export type Counts = readonly (readonly [text: string, count: number])[];

/** A caller, and what was seen of it. Times are milliseconds since the epoch. */
export interface Caller extends CallerKey {
  /** Of one of its processes, redacted; null where they were not read. */
  readonly arguments: readonly string[] | null;
  readonly parents: readonly string[];
  /** The cgroup of its last connection; null where unknown. */
  readonly cgroup: string | null;
  /** The Slurm jobs that were seen last. */
  readonly jobs: readonly string[];
  readonly connections: number;
  readonly requests: number;
  readonly firstMs: number;
  readonly lastMs: number;
  /** Requests by version of IMDS; those that are neither could not be told. */
  readonly v1: number;
  readonly v2: number;
  readonly categories: Counts;
  readonly userAgents: Counts;
}

export const OTHERS = "(others)";
const MOST_CALLERS = 4_096;
const MOST_OF_SHARE = 64;
const MOST_CATEGORIES = 32;
const MOST_USER_AGENTS = 8;
const MOST_JOBS = 8;

/** A caller that is being counted. */
export class CallerCount {
  readonly key: CallerKey;
  arguments: readonly string[] | null = null;
  parents: readonly string[] = [];
  cgroup: string | null = null;
  connections = 0;
  requests = 0;
  firstMs = Number.POSITIVE_INFINITY;
  lastMs = 0;
  v1 = 0;
  v2 = 0;
  readonly #jobs = new Set<string>();
  readonly #categories = new Map<string, number>();
  readonly #userAgents = new Map<string, number>();

  constructor(key: CallerKey) {
    this.key = key;
  }

  touch(nowMs: number): void {
    this.firstMs = Math.min(this.firstMs, nowMs);
    this.lastMs = Math.max(this.lastMs, nowMs);
  }

  job(id: string): void {
    this.#jobs.delete(id);
    this.#jobs.add(id);
    if (this.#jobs.size <= MOST_JOBS) return;
    for (const oldest of this.#jobs) {
      this.#jobs.delete(oldest);
      return;
    }
  }

  request({ category, imdsVersion, userAgent }: SeenRequest): void {
    this.requests++;
    if (imdsVersion === 1) this.v1++;
    if (imdsVersion === 2) this.v2++;
    countCategory(this.#categories, category, 1);
    if (userAgent !== null) count(this.#userAgents, userAgent, 1, MOST_USER_AGENTS);
  }

  /** Adds what was seen of the same caller at another time. */
  add(other: Caller): void {
    this.touch(other.firstMs);
    this.touch(other.lastMs);
    this.arguments ??= other.arguments;
    if (this.parents.length === 0) this.parents = other.parents;
    this.cgroup ??= other.cgroup;
    for (const id of other.jobs) this.job(id);
    this.connections += other.connections;
    this.requests += other.requests;
    this.v1 += other.v1;
    this.v2 += other.v2;
    for (const [text, times] of other.categories) countCategory(this.#categories, text, times);
    for (const [text, times] of other.userAgents) count(this.#userAgents, text, times, MOST_USER_AGENTS);
  }

  snapshot(): Caller {
    return {
      ...this.key,
      arguments: this.arguments,
      parents: this.parents,
      cgroup: this.cgroup,
      jobs: [...this.#jobs],
      connections: this.connections,
      requests: this.requests,
      firstMs: this.firstMs,
      lastMs: this.lastMs,
      v1: this.v1,
      v2: this.v2,
      categories: sorted(this.#categories),
      userAgents: sorted(this.#userAgents),
    };
  }
}

function count(counts: Map<string, number>, text: string, times: number, most: number): void {
  const key = counts.has(text) || counts.size < most ? text : OTHERS;
  counts.set(key, (counts.get(key) ?? 0) + times);
}

/**
 * A draft of a configuration depends on whether these were seen (`suggest.ts`). Where the list is full, one of them evicts another
 * category: otherwise a user could first ask for 32 made-up names, and then for credentials unseen.
 */
const DECISIVE: ReadonlySet<string> = new Set([CREDENTIALS_CATEGORY, UNKNOWN_CATEGORY]);

function countCategory(counts: Map<string, number>, text: string, times: number): void {
  if (counts.size >= MOST_CATEGORIES && DECISIVE.has(text) && !counts.has(text)) {
    const other = [...counts.keys()].find((one) => one !== OTHERS && !DECISIVE.has(one)) ?? OTHERS;
    const itsCount = counts.get(other) ?? 0;
    counts.delete(other);
    counts.set(OTHERS, (counts.get(OTHERS) ?? 0) + itsCount);
    counts.set(text, times);
    return;
  }
  count(counts, text, times, MOST_CATEGORIES);
}

const sorted = (counts: ReadonlyMap<string, number>): Counts =>
  [...counts].sort(([a, many], [b, more]) => more - many || (a < b ? -1 : 1));

/** All callers. A share is a user with all of their subordinate uids, so that none fills the list for the others. */
export class Callers {
  readonly #callers = new Map<string, CallerCount>();
  readonly #ofShare = new Map<string, number>();
  readonly #shareOf: (uid: number) => string | number;
  /** How many callers were added to an entry that stands for several, because a list was full. */
  #folded = 0;

  constructor(shareOf: (uid: number) => string | number) {
    this.#shareOf = shareOf;
  }

  get folded(): number {
    return this.#folded;
  }

  /** The entry of a caller; where its share or the list is full, an entry that stands for several. */
  of(key: CallerKey): CallerCount {
    const known = this.#callers.get(textOf(key));
    if (known !== undefined) return known;
    const share = this.#shareOfKey(key);
    const ofShare = this.#ofShare.get(share) ?? 0;
    const isRoom = this.#callers.size < MOST_CALLERS;
    if (isRoom && ofShare < MOST_OF_SHARE) {
      this.#ofShare.set(share, ofShare + 1);
      return this.#add(key);
    }
    this.#folded++;
    // Each full share has one such entry. Where the whole list is full, there is one for everybody.
    const folded: CallerKey = {
      uid: isRoom ? key.uid : null,
      container: isRoom ? key.container : null,
      place: { kind: "unknown" },
      program: OTHERS,
    };
    const others = this.#callers.get(textOf(folded));
    if (others !== undefined) return others;
    if (isRoom && ofShare === MOST_OF_SHARE) {
      this.#ofShare.set(share, ofShare + 1);
      return this.#add(folded);
    }
    const ofEverybody: CallerKey = { ...folded, uid: null, container: null };
    return this.#callers.get(textOf(ofEverybody)) ?? this.#add(ofEverybody);
  }

  /** Removes a caller whose connections and requests were all moved to another. */
  drop(caller: CallerCount): void {
    if (caller.connections > 0 || caller.requests > 0) return;
    if (!this.#callers.delete(textOf(caller.key))) return;
    const share = this.#shareOfKey(caller.key);
    this.#ofShare.set(share, Math.max(0, (this.#ofShare.get(share) ?? 1) - 1));
  }

  /** Adds what an earlier run has seen. */
  add(callers: readonly Caller[]): void {
    for (const caller of callers) this.of(caller).add(caller);
  }

  /** All bridged containers are one share: they choose their addresses. */
  #shareOfKey({ uid }: CallerKey): string {
    return uid === null ? "nobody" : String(this.#shareOf(uid));
  }

  #add(key: CallerKey): CallerCount {
    const { uid, container, place, program } = key;
    const made = new CallerCount({ uid, container, place, program });
    this.#callers.set(textOf(key), made);
    return made;
  }

  /** The callers, those with the most requests first. */
  snapshot(): Caller[] {
    return [...this.#callers.values()]
      .map((caller) => caller.snapshot())
      .sort((a, b) => b.requests - a.requests || b.connections - a.connections || a.firstMs - b.firstMs);
  }
}

const textOf = ({ uid, container, place, program }: CallerKey): string =>
  JSON.stringify([uid, container, place.kind, placeText(place), program]);
