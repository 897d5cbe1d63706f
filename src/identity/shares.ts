import type { Subject } from "./caller.ts";

/**
 * Whose share of connections, turns and look-ups a uid has: its own, but all subordinate uids of an owner have one share
 * together. With a line in /etc/subuid a user is 65,536 uids (newuidmap(1)).
 */

/** The subordinate uids that somebody owns, as a line of subuid(5) says. */
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

/** How often the file is looked at, in milliseconds. */
const LOOK_MS = 1_000;

/** Shares by uid. */
export class Shares {
  readonly #read: () => string | null;
  readonly #monotonicMs: () => number;
  #lookedMs = Number.NEGATIVE_INFINITY;
  /** By `first`. */
  #ranges: SubordinateRange[] = [];
  /** The highest `last` of a range and all before it. */
  #reach: number[] = [];

  /** @param options.read the text of /etc/subuid where it is another than at the last call, else null. */
  constructor(options: { read: () => string | null; monotonicMs: () => number }) {
    this.#read = options.read;
    this.#monotonicMs = options.monotonicMs;
  }

  /** The uid, or a name that all uids of the same owner's have. */
  of(uid: number): Subject {
    const now = this.#monotonicMs();
    if (now - this.#lookedMs >= LOOK_MS) {
      this.#lookedMs = now;
      const text = this.#read();
      if (text !== null) this.#take(parseSubordinateRanges(text));
    }
    // The last range that begins at the uid or before it. Where ranges overlap, either owner's share will do.
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#ranges[middle]?.first ?? 0) <= uid) low = middle + 1;
      else high = middle;
    }
    // A narrow range may stand inside of a wide one that begins earlier.
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
