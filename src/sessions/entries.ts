import type { Subject } from "../identity/caller.ts";
import type { Entry } from "./entry.ts";

/** The entries in memory: a bounded LRU of which each owner has a bounded part. */
export class Entries {
  readonly #most: number;
  readonly #mostPerOwner: number;
  /** In LRU order: the least recently used entry is the first. */
  readonly #byKey = new Map<string, Entry>();
  /** The most recently used entry; null where it was removed. */
  #newest: Entry | null = null;
  readonly #countOf = new Map<Subject, number>();

  /** @param most entries in all. @param mostPerOwner entries of one owner. */
  constructor(most: number, mostPerOwner: number) {
    this.#most = most;
    this.#mostPerOwner = mostPerOwner;
  }

  get size(): number {
    return this.#byKey.size;
  }

  get(key: string): Entry | undefined {
    return this.#byKey.get(key);
  }

  /** All entries, the least recently used first. */
  all(): IterableIterator<Entry> {
    return this.#byKey.values();
  }

  /** Adds an entry as the most recently used one. The caller has made room by {@link crowdedOut}. */
  add(entry: Entry): void {
    this.#byKey.set(entry.key, entry);
    this.#newest = entry;
    this.#countOf.set(entry.owner, (this.#countOf.get(entry.owner) ?? 0) + 1);
  }

  /** Makes an entry the most recently used one. */
  touch(entry: Entry): void {
    if (entry === this.#newest) return;
    this.#byKey.delete(entry.key);
    this.#byKey.set(entry.key, entry);
    this.#newest = entry;
  }

  remove(entry: Entry): void {
    if (entry === this.#newest) this.#newest = null;
    if (!this.#byKey.delete(entry.key)) return;
    const left = (this.#countOf.get(entry.owner) ?? 0) - 1;
    if (left > 0) this.#countOf.set(entry.owner, left);
    else this.#countOf.delete(entry.owner);
  }

  /**
   * The entry to evict for a new one of this owner: the least recently used of this owner, where they have as many as they may;
   * else, where all together are as many as may be, of the owner who has most. So a user who asks for many sessions loses their own.
   * An entry that a caller waits for, or that STS is asked for, is not evicted.
   *
   * @returns `room` where none has to be evicted, and `full` where none can be.
   */
  crowdedOut(owner: Subject): Entry | "room" | "full" {
    if ((this.#countOf.get(owner) ?? 0) >= this.#mostPerOwner) return this.#oldest((of) => of === owner);
    if (this.#byKey.size < this.#most) return "room";
    let most = 0;
    for (const count of this.#countOf.values()) most = Math.max(most, count);
    return this.#oldest((of) => this.#countOf.get(of) === most);
  }

  #oldest(isAmong: (owner: Subject) => boolean): Entry | "full" {
    for (const entry of this.#byKey.values()) {
      if (!entry.inFlight && entry.waiters === null && isAmong(entry.owner)) return entry;
    }
    return "full";
  }
}
