import type { Subject } from "../identity/caller.ts";
import type { Clock } from "../platform/clock.ts";
import { FairSlots } from "../platform/fair-slots.ts";

/**
 * Metadata from the upstream, through a cache: a node's users ask thousands of times for the same few values, and the real
 * service drops what exceeds 1,024 packets a second for the whole interface, DNS and root's own requests included.
 */

/** What the upstream said to one path. */
export type UpstreamAnswer =
  | { readonly kind: "found"; readonly body: string; readonly lastModifiedMs: number | null }
  | { readonly kind: "absent" }
  /** Not answered, or not in a way that says anything about the path. */
  | { readonly kind: "failed"; readonly why: string };

/** Reads one metadata path; src/upstream/upstream.ts is the real one. */
export interface MetadataSource {
  /**
   * @param version `latest`, `1.0` or a date.
   * @param path below the version, of plain segments; empty for the version's own listing. Never a path of credentials:
   * the implementation refuses those too.
   */
  read(version: string, path: string): Promise<UpstreamAnswer>;
}

/** How long an answer is good, in milliseconds. What announces the end of the node must be fresh. */
const FRESH_MS = 5_000;
const STABLE_MS = 60_000;
const ABSENT_MS = 5_000;
const FRESH = /^meta-data\/(?:spot|events|autoscaling|instance-action|tags)(?:\/|$)/;
/** Entries in memory, and bytes of one body. */
const MAX_ENTRIES = 2_000;
/** Requests on the way to the upstream at once. */
const MAX_IN_FLIGHT = 4;
/** A user's misses that go out in a second once the first {@link MISS_BURST} are used up, and how many may wait for that. */
const MISSES_PER_SECOND = 20;
const MISS_BURST = 100;
const MAX_WAITING_PER_USER = 64;

interface Entry {
  readonly answer: UpstreamAnswer;
  readonly validUntilMs: number;
}

/** A user's share of misses: below zero, as many wait. */
interface Allowance {
  left: number;
  countedMs: number;
}

/** A cache with one request per path however many callers wait, and a fair, bounded share of the upstream for each user. */
export class MetadataCache {
  readonly #source: MetadataSource;
  readonly #clock: Clock;
  readonly #entries = new Map<string, Entry>();
  /** Requests that are on their way, by path: everybody's. */
  readonly #pending = new Map<string, Promise<UpstreamAnswer>>();
  /** Requests that wait for a user's share of the upstream, by user and path: that user's alone. */
  readonly #waiting = new Map<string, Promise<UpstreamAnswer>>();
  readonly #slots = new FairSlots<Subject>(MAX_IN_FLIGHT);
  readonly #allowances = new Map<Subject, Allowance>();
  #generation = 0;

  constructor(options: { source: MetadataSource; clock: Clock }) {
    this.#source = options.source;
    this.#clock = options.clock;
  }

  /** The answer in memory, or null where the upstream has to be asked. */
  peek(version: string, path: string): UpstreamAnswer | null {
    const key = `${version}/${path}`;
    const entry = this.#entries.get(key);
    if (entry === undefined) return null;
    if (entry.validUntilMs > this.#clock.now() && entry.validUntilMs <= this.#clock.now() + STABLE_MS)
      return entry.answer;
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
    // Whose share is used up waits alone: another user who joined them would wait as long.
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

  /** Forgets every answer: they were another service's. */
  clear(): void {
    this.#entries.clear();
    this.#pending.clear();
    this.#waiting.clear();
    this.#generation++;
  }

  /** The answer in memory, or the one that is on its way for whomever. */
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
    // Another user's turn may have come first. What is under way for them holds a slot of theirs, and needs none of ours.
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
    this.#entries.delete(key);
    this.#entries.set(key, { answer, validUntilMs: this.#clock.now() + lifeMs });
    if (this.#entries.size > MAX_ENTRIES) {
      const oldest = this.#entries.keys().next().value;
      if (oldest !== undefined) this.#entries.delete(oldest);
    }
  }

  /** Takes one of the user's misses: how many milliseconds it has to wait, or null where too many wait already. */
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
    // Who has not asked for the longest has a full allowance again, or nearly.
    if (this.#allowances.size > MAX_ENTRIES) {
      const idle = this.#allowances.keys().next().value;
      if (idle !== undefined) this.#allowances.delete(idle);
    }
    return allowance.left >= 0 ? 0 : (-allowance.left / MISSES_PER_SECOND) * 1000;
  }
}
