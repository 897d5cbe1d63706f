import type { Subject } from "../identity/caller.ts";
import type { Clock } from "../platform/clock.ts";
import { FairSlots } from "../platform/fair-slots.ts";

/**
 * A cache of the upstream's metadata. A node's users ask for the same few values thousands of times, and the real service
 * drops packets beyond 1,024 a second of a network interface, including DNS and root's own requests.
 */

/** The upstream's answer for one path. */
export type UpstreamAnswer =
  | { readonly kind: "found"; readonly body: string; readonly lastModifiedMs: number | null }
  | { readonly kind: "absent" }
  /** No answer, or none that tells anything about the path. */
  | { readonly kind: "failed"; readonly why: string };

/** Reads one metadata path. src/upstream/upstream.ts implements it. */
export interface MetadataSource {
  /**
   * @param version `latest`, `1.0` or a date.
   * @param path below the version, of plain segments; empty for the version's own listing. Never a path of credentials:
   * the implementation refuses those too.
   */
  read(version: string, path: string): Promise<UpstreamAnswer>;
}

/** Milliseconds for which an answer is kept. Announcements of the node's end must be fresh. */
const FRESH_MS = 5_000;
const STABLE_MS = 60_000;
const ABSENT_MS = 5_000;
const FRESH = /^meta-data\/(?:spot|events|autoscaling|instance-action|tags)(?:\/|$)/;
/**
 * What the names of sessions have in them: without it nobody who has a session could be given it. The last answer holds while the
 * upstream is away, however long that is. A node does not lose its id, so that a 404 takes none back: it comes from an agent that is
 * starting, and every session would get another name by it.
 */
const LASTING: ReadonlySet<string> = new Set(["latest/meta-data/instance-id"]);
/** Milliseconds between two requests to an upstream that is away, for what is LASTING. */
const AGAIN_MS = 1_000;
/** Entries in memory. */
const MAX_ENTRIES = 2_000;
/** Requests to the upstream at one time. */
const MAX_IN_FLIGHT = 4;
/** The token bucket of a user's cache misses: its rate, its burst, and how many may wait for a token. */
const MISSES_PER_SECOND = 20;
const MISS_BURST = 100;
const MAX_WAITING_PER_USER = 64;

interface Entry {
  readonly answer: UpstreamAnswer;
  readonly validUntilMs: number;
  /** For how long it was to be kept, in milliseconds. */
  readonly lifeMs: number;
}

/** The token bucket of a user; below zero, as many misses wait. */
interface Allowance {
  left: number;
  countedMs: number;
}

/**
 * The cache. Requests for one path are single-flight, however many callers wait. Each user has a token bucket of misses and
 * a fair share of the requests under way.
 */
export class MetadataCache {
  readonly #source: MetadataSource;
  readonly #clock: Clock;
  readonly #entries = new Map<string, Entry>();
  /** Requests under way, by path, for all users. */
  readonly #pending = new Map<string, Promise<UpstreamAnswer>>();
  /** Requests that wait for their user's token bucket, by user and path. */
  readonly #waiting = new Map<string, Promise<UpstreamAnswer>>();
  readonly #slots = new FairSlots<Subject>(MAX_IN_FLIGHT);
  readonly #allowances = new Map<Subject, Allowance>();
  /** The last answers of what is LASTING, which no user's requests drive out. */
  readonly #last = new Map<string, UpstreamAnswer>();
  #askedAgainMs = Number.NEGATIVE_INFINITY;
  #generation = 0;

  constructor(options: { source: MetadataSource; clock: Clock }) {
    this.#source = options.source;
    this.#clock = options.clock;
  }

  /** The answer in memory, or null where the upstream has to be asked. @param nowMs what the clock says now. */
  peek(version: string, path: string, nowMs = this.#clock.now()): UpstreamAnswer | null {
    const key = `${version}/${path}`;
    const entry = this.#entries.get(key);
    if (entry === undefined) return null;
    const leftMs = entry.validUntilMs - nowMs;
    // An end beyond its whole life comes from a clock that was ahead.
    if (leftMs > 0 && leftMs <= entry.lifeMs) return entry.answer;
    this.#entries.delete(key);
    return null;
  }

  /**
   * The answer from memory or from the upstream.
   *
   * @param owner whose request it is, a uid or a container; each has a bounded share.
   */
  async read(version: string, path: string, owner: Subject): Promise<UpstreamAnswer> {
    const key = `${version}/${path}`;
    const known = this.#known(key, version, path);
    if (known !== null) return known;
    // Only callers of the same user join this request, because it may wait for that user's tokens.
    const turn = `${owner} ${key}`;
    const waiting = this.#waiting.get(turn);
    if (waiting !== undefined) return waiting;
    const delayMs = this.#take(owner);
    if (delayMs === null) return { kind: "failed", why: "too many requests of one user wait" };
    const answer = this.#inTurn(key, version, path, owner, delayMs).finally(() => {
      if (this.#waiting.get(turn) === answer) this.#waiting.delete(turn);
    });
    this.#waiting.set(turn, answer);
    return answer;
  }

  /**
   * What is LASTING, for a request that must not wait: the answer in memory, or the last one while the upstream is asked anew. Only
   * where there is none yet does it wait for the upstream.
   *
   * @param nowMs what the clock says now.
   */
  readLasting(
    version: string,
    path: string,
    owner: Subject,
    nowMs = this.#clock.now(),
  ): UpstreamAnswer | Promise<UpstreamAnswer> {
    const last = this.#last.get(`${version}/${path}`);
    const kept = this.peek(version, path, nowMs);
    if (kept !== null && (kept.kind === "found" || last?.kind !== "found")) return kept;
    if (last === undefined) return this.read(version, path, owner);
    if (Math.abs(nowMs - this.#askedAgainMs) >= AGAIN_MS) {
      this.#askedAgainMs = nowMs;
      // Where this fails, the last answer goes on holding.
      this.read(version, path, owner).catch(() => {});
    }
    return last;
  }

  /** Drops all answers, because they came from a service that is not the upstream any more. */
  clear(): void {
    this.#entries.clear();
    this.#last.clear();
    this.#pending.clear();
    this.#waiting.clear();
    this.#generation++;
  }

  /** The answer in memory, or the request under way, of any user. */
  #known(key: string, version: string, path: string): UpstreamAnswer | Promise<UpstreamAnswer> | null {
    return this.peek(version, path) ?? this.#pending.get(key) ?? null;
  }

  async #inTurn(
    key: string,
    version: string,
    path: string,
    owner: Subject,
    delayMs: number,
  ): Promise<UpstreamAnswer> {
    if (delayMs > 0) await new Promise<void>((resume) => this.#clock.schedule(delayMs, resume));
    const release = await this.#slots.acquire(owner);
    // Another user may have requested the path meanwhile. Their request holds a slot of theirs, so ours is given back.
    const known = this.#known(key, version, path);
    if (known !== null) {
      release();
      return known;
    }
    return this.#fetch(key, version, path).finally(release);
  }

  #fetch(key: string, version: string, path: string): Promise<UpstreamAnswer> {
    const generation = this.#generation;
    const answer = this.#source
      .read(version, path)
      .then((found) => {
        if (found.kind !== "failed" && generation === this.#generation) this.#keep(key, path, found);
        return found;
      })
      .finally(() => {
        if (this.#pending.get(key) === answer) this.#pending.delete(key);
      });
    this.#pending.set(key, answer);
    return answer;
  }

  #keep(key: string, path: string, answer: UpstreamAnswer): void {
    const lifeMs = answer.kind === "absent" ? ABSENT_MS : FRESH.test(path) ? FRESH_MS : STABLE_MS;
    if (LASTING.has(key) && (answer.kind === "found" || !this.#last.has(key))) this.#last.set(key, answer);
    this.#entries.delete(key);
    this.#entries.set(key, { answer, validUntilMs: this.#clock.now() + lifeMs, lifeMs });
    if (this.#entries.size > MAX_ENTRIES) {
      const oldest = this.#entries.keys().next().value;
      if (oldest !== undefined) this.#entries.delete(oldest);
    }
  }

  /** Takes a token of the user's. @returns how many milliseconds to wait for it, or null where too many wait already. */
  #take(owner: Subject): number | null {
    const now = this.#clock.now();
    const allowance = this.#allowances.get(owner) ?? { left: MISS_BURST, countedMs: now };
    const elapsedSeconds = Math.max(0, now - allowance.countedMs) / 1000;
    allowance.left = Math.min(MISS_BURST, allowance.left + elapsedSeconds * MISSES_PER_SECOND);
    allowance.countedMs = now;
    if (allowance.left <= -MAX_WAITING_PER_USER) return null;
    allowance.left--;
    this.#allowances.delete(owner);
    this.#allowances.set(owner, allowance);
    // Drops the least recently used bucket: it has filled up again, or nearly, and a new bucket is full.
    if (this.#allowances.size > MAX_ENTRIES) {
      const idle = this.#allowances.keys().next().value;
      if (idle !== undefined) this.#allowances.delete(idle);
    }
    return allowance.left >= 0 ? 0 : (-allowance.left / MISSES_PER_SECOND) * 1000;
  }
}
