/** Cgroups in memory, in all. */
const MAX_ENTRIES = 20_000;
/** Of these: outside of users' places, and in one place. */
const OUTSIDE_ENTRIES = 8_000;
const PLACE_ENTRIES = 2_000;

/**
 * What walks have met, and ended cgroups too, for callers whose socket outlives its cgroup. A place that is full loses
 * what was of use the longest ago in it, and nothing of another's; where all places together are too many, the place
 * that was of use the longest ago does.
 */
export class KnownCgroups {
  readonly #cgroups = new Map<bigint, { readonly path: string; readonly place: string | null }>();
  readonly #outside = new Set<bigint>();
  /** Places and the ids in them, each in the order of use. */
  readonly #places = new Map<string, Set<bigint>>();

  get(id: bigint): string | undefined {
    const cgroup = this.#cgroups.get(id);
    if (cgroup !== undefined) this.#use(id, cgroup.place);
    return cgroup?.path;
  }

  add(id: bigint, path: string, place: string | null): void {
    const before = this.#cgroups.get(id);
    // A directory that is delegated later becomes a place.
    if (before !== undefined && before.place !== place) this.#forget(id, before.place);
    this.#cgroups.set(id, { path, place });
    const ids = this.#use(id, place);
    if (ids.size > (place === null ? OUTSIDE_ENTRIES : PLACE_ENTRIES)) this.#forgetFirst(ids, place);
    if (this.#cgroups.size <= MAX_ENTRIES) return;
    for (const [longestUnused, unused] of this.#places) {
      this.#forgetFirst(unused, longestUnused);
      return;
    }
  }

  #use(id: bigint, place: string | null): Set<bigint> {
    const ids = place === null ? this.#outside : (this.#places.get(place) ?? new Set());
    ids.delete(id);
    ids.add(id);
    if (place !== null) {
      this.#places.delete(place);
      this.#places.set(place, ids);
    }
    return ids;
  }

  #forgetFirst(ids: ReadonlySet<bigint>, place: string | null): void {
    for (const id of ids) {
      this.#forget(id, place);
      return;
    }
  }

  #forget(id: bigint, place: string | null): void {
    this.#cgroups.delete(id);
    const ids = place === null ? this.#outside : this.#places.get(place);
    ids?.delete(id);
    if (place !== null && ids?.size === 0) this.#places.delete(place);
  }
}
