/** Cgroups in memory, in all. */
const MAX_ENTRIES = 20_000;
/** The limits of these for everything outside of the user subtrees, and for one user subtree. */
const OUTSIDE_ENTRIES = 8_000;
const SUBTREE_ENTRIES = 2_000;

/** A cgroup that a walk has met. */
export interface KnownCgroup {
  readonly path: string;
  readonly subtree: string | null;
  /** When it was last seen, in milliseconds. */
  seenAtMs: number;
  /** True once it was found to be gone. Its id is never reused. */
  hasEnded: boolean;
}

/**
 * An LRU cache of the cgroups that walks have met. Cgroups that ended stay in it, so that a socket which outlives its cgroup causes
 * no walk. Each user subtree has a limit of its own, so that no user evicts another's entries. Where all subtrees together
 * exceed the limit, the least recently used entry of the least recently used subtree is evicted.
 */
export class KnownCgroups {
  readonly #cgroups = new Map<bigint, KnownCgroup>();
  readonly #outside = new Set<bigint>();
  /** User subtrees and the ids in them; both in the order of their last use. */
  readonly #subtrees = new Map<string, Set<bigint>>();

  get(id: bigint): KnownCgroup | undefined {
    const cgroup = this.#cgroups.get(id);
    if (cgroup !== undefined) this.#use(id, cgroup.subtree);
    return cgroup;
  }

  /** @param nowMs the time at which it was seen. */
  add(id: bigint, path: string, subtree: string | null, nowMs: number): void {
    const before = this.#cgroups.get(id);
    // A directory that is delegated to a user later becomes a user subtree.
    if (before !== undefined && before.subtree !== subtree) this.#forget(id, before.subtree);
    this.#cgroups.set(id, { path, subtree, seenAtMs: nowMs, hasEnded: false });
    const ids = this.#use(id, subtree);
    if (ids.size > (subtree === null ? OUTSIDE_ENTRIES : SUBTREE_ENTRIES)) this.#forgetFirst(ids, subtree);
    if (this.#cgroups.size <= MAX_ENTRIES) return;
    for (const [leastRecent, entries] of this.#subtrees) {
      this.#forgetFirst(entries, leastRecent);
      return;
    }
  }

  #use(id: bigint, subtree: string | null): Set<bigint> {
    const ids = subtree === null ? this.#outside : (this.#subtrees.get(subtree) ?? new Set());
    ids.delete(id);
    ids.add(id);
    if (subtree !== null) {
      this.#subtrees.delete(subtree);
      this.#subtrees.set(subtree, ids);
    }
    return ids;
  }

  #forgetFirst(ids: ReadonlySet<bigint>, subtree: string | null): void {
    for (const id of ids) {
      this.#forget(id, subtree);
      return;
    }
  }

  #forget(id: bigint, subtree: string | null): void {
    this.#cgroups.delete(id);
    const ids = subtree === null ? this.#outside : this.#subtrees.get(subtree);
    ids?.delete(id);
    if (subtree !== null && ids?.size === 0) this.#subtrees.delete(subtree);
  }
}
