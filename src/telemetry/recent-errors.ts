/** What went wrong lately, each kind once with its count: for a person who looks. In memory alone, and bounded. */

/** Milliseconds for which an error is remembered after it came last. */
const REMEMBER_MS = 4 * 3_600_000;
/** Kinds that are remembered. */
const MAX_KINDS = 64;

/** A kind of error. Times are milliseconds since the epoch. */
export interface RecentError {
  /** What was found when it came last. */
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
  /** In the order of the last one. */
  readonly #kinds = new Map<string, Row>();

  /** @param options.now milliseconds since the epoch. */
  constructor(options: { readonly now: () => number }) {
    this.#now = options.now;
  }

  /**
   * Notes one.
   *
   * @param kind tells kinds apart. It must not hold what a user chooses, such as their uid: one user would drive out the rest.
   * @param remedy is called when somebody looks.
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

  /** Those of the last four hours, the last first. */
  list(): readonly RecentError[] {
    const sinceMs = this.#now() - REMEMBER_MS;
    for (const [kind, { lastMs }] of this.#kinds) if (lastMs < sinceMs) this.#kinds.delete(kind);
    return [...this.#kinds.values()].reverse().map((row) => ({ ...row, remedy: row.remedy() }));
  }
}
