/** Recent errors, each kind once with its count, for `imdsproxy status`. In memory only, and bounded. */

/** Milliseconds for which an error is remembered after it last occurred. */
const REMEMBER_MS = 4 * 3_600_000;
/** The most kinds that are remembered. */
const MAX_KINDS = 64;

/** A kind of error. Times are milliseconds since the epoch. */
export interface RecentError {
  /** The text of its last occurrence. */
  readonly what: string;
  readonly count: number;
  readonly firstMs: number;
  readonly lastMs: number;
  /** What to do; null where that is not known. */
  readonly remedy: string | null;
}

interface Row {
  what: string;
  count: number;
  readonly firstMs: number;
  lastMs: number;
  remedy: () => string | null;
}

export class RecentErrors {
  readonly #now: () => number;
  /** In the order of their last occurrence. */
  readonly #kinds = new Map<string, Row>();

  /** @param options.now milliseconds since the epoch. */
  constructor(options: { readonly now: () => number }) {
    this.#now = options.now;
  }

  /**
   * Records an error.
   *
   * @param kind tells kinds apart. It must not hold what a user chooses, such as their uid: one user could then evict all other
   *   kinds.
   * @param remedy is called when the errors are listed.
   */
  note(kind: string, what: string, remedy: () => string | null): void {
    const nowMs = this.#now();
    const known = this.#kinds.get(kind);
    this.#kinds.delete(kind);
    if (known === undefined) {
      this.#kinds.set(kind, { what, count: 1, firstMs: nowMs, lastMs: nowMs, remedy });
      const [oldest] = this.#kinds.keys();
      if (this.#kinds.size > MAX_KINDS && oldest !== undefined) this.#kinds.delete(oldest);
      return;
    }
    known.what = what;
    known.count++;
    known.lastMs = nowMs;
    known.remedy = remedy;
    this.#kinds.set(kind, known);
  }

  /** The errors of the last four hours, the most recent first. */
  list(): readonly RecentError[] {
    const sinceMs = this.#now() - REMEMBER_MS;
    for (const [kind, { lastMs }] of this.#kinds) if (lastMs < sinceMs) this.#kinds.delete(kind);
    return [...this.#kinds.values()].reverse().map((row) => ({ ...row, remedy: row.remedy() }));
  }
}
