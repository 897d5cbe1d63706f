import type { Subject } from "./caller.ts";

/**
 * Maps a uid to the user whose limits it counts against. All subordinate uids of an owner count as one user: a line of
 * /etc/subuid gives somebody 65,536 uids (newuidmap(1)), each of which would otherwise have limits of its own.
 */

/** A line of subuid(5): a range of subordinate uids and its owner. */
export interface SubordinateRange {
  readonly owner: string;
  readonly first: number;
  readonly last: number;
}

/** The lines of /etc/subuid that are well-formed: `owner:first:count`. */
export function parseSubordinateRanges(text: string): SubordinateRange[] {
  const ranges: SubordinateRange[] = [];
  for (const line of text.split("\n")) {
    const [owner = "", first = "", count = ""] = line.split(":");
    if (owner === "" || !/^\d+$/.test(first) || !/^\d+$/.test(count) || Number(count) === 0) continue;
    ranges.push({ owner, first: Number(first), last: Number(first) + Number(count) - 1 });
  }
  return ranges;
}

/** How often the file is checked for a change, in milliseconds. */
const LOOK_MS = 1_000;

/** The mapping, kept up to date with the file. */
export class Shares {
  readonly #read: () => string | null;
  readonly #monotonicMs: () => number;
  #lookedMs = Number.NEGATIVE_INFINITY;
  /** By `first`. */
  #ranges: SubordinateRange[] = [];
  /** For each range, the highest `last` of it and all before it. */
  #reach: number[] = [];

  /** @param options.read the text of /etc/subuid where it has changed since the last call, else null. */
  constructor(options: { read: () => string | null; monotonicMs: () => number }) {
    this.#read = options.read;
    this.#monotonicMs = options.monotonicMs;
  }

  /** The uid itself, or a text that is the same for all subordinate uids of one owner. */
  of(uid: number): Subject {
    const now = this.#monotonicMs();
    if (now - this.#lookedMs >= LOOK_MS) {
      this.#lookedMs = now;
      const text = this.#read();
      if (text !== null) this.#take(parseSubordinateRanges(text));
    }
    // Binary search for the last range that begins at the uid or before it. Where ranges overlap, either owner will do.
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#ranges[middle]?.first ?? 0) <= uid) low = middle + 1;
      else high = middle;
    }
    // That range may end before the uid while a wider one, which begins earlier, contains it.
    for (let at = low - 1; at >= 0 && (this.#reach[at] ?? 0) >= uid; at--) {
      const range = this.#ranges[at];
      if (range !== undefined && uid <= range.last) return `subordinate to ${range.owner}`;
    }
    return uid;
  }

  #take(ranges: SubordinateRange[]): void {
    this.#ranges = ranges.sort((a, b) => a.first - b.first);
    let reach = 0;
    this.#reach = this.#ranges.map(({ last }) => {
      reach = Math.max(reach, last);
      return reach;
    });
  }
}
