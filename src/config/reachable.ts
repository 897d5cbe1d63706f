import type { Config, Match } from "./schema.ts";

/** A rule that no caller can ever reach, and why. */
export interface Unreachable {
  /** Place in `rules`, from 0. */
  readonly index: number;
  readonly why: string;
}

type UidRange = NonNullable<Match["uid"]>[number];

/** One item of each list of a match, so that a rule covers either the whole cell or none of it. Null: the match does not ask. */
interface Cell {
  readonly user: string | null;
  readonly uid: UidRange | null;
  readonly group: string | null;
  readonly cgroup: string | null;
  readonly unit: string | null;
  readonly slurmJob: boolean | null;
}

/** How many cells of one rule are compared with the rules above it; beyond that, it is taken for reachable. */
const MAX_CELLS = 10_000;

/** The ranges, cut wherever one of `others` begins or ends, so that each piece is wholly inside or outside of each of them. */
function pieces(ranges: readonly UidRange[], others: readonly UidRange[]): UidRange[] {
  return ranges.flatMap(({ from, to }) => {
    const starts = new Set([from]);
    for (const other of others) {
      if (from < other.from && other.from <= to) starts.add(other.from);
      if (from <= other.to && other.to < to) starts.add(other.to + 1);
    }
    const sorted = [...starts].sort((a, b) => a - b);
    return sorted.map((start, index) => ({ from: start, to: (sorted[index + 1] ?? to + 1) - 1 }));
  });
}

/** All cells of a match; null where there are more than MAX_CELLS. */
function cellsOf(match: Match, earlier: readonly Match[]): Cell[] | null {
  const uids =
    match.uid &&
    pieces(
      match.uid,
      earlier.flatMap(({ uid }) => uid ?? []),
    );
  const jobs =
    match.slurmJob === undefined && earlier.some(({ slurmJob }) => slurmJob !== undefined)
      ? [true, false]
      : [match.slurmJob ?? null];
  const lists = [match.user, uids, match.group, match.cgroup, match.unit, jobs];
  if (lists.reduce((count, list) => count * (list?.length ?? 1), 1) > MAX_CELLS) return null;
  const anyOf = <T>(list: readonly T[] | undefined): readonly (T | null)[] => list ?? [null];
  return anyOf(match.user).flatMap((user) =>
    anyOf(uids).flatMap((uid) =>
      anyOf(match.group).flatMap((group) =>
        anyOf(match.cgroup).flatMap((cgroup) =>
          anyOf(match.unit).flatMap((unit) =>
            jobs.map((slurmJob) => ({ user, uid, group, cgroup, unit, slurmJob })),
          ),
        ),
      ),
    ),
  );
}

/** Whether a match holds for everyone in the cell, as far as that can be said without knowing the node. */
function coversCell(match: Match, cell: Cell): boolean {
  const names = (list: readonly string[] | undefined, item: string | null) =>
    list === undefined || (item !== null && list.includes(item));
  const { uid } = cell;
  return (
    names(match.user, cell.user) &&
    names(match.group, cell.group) &&
    names(match.cgroup, cell.cgroup) &&
    names(match.unit, cell.unit) &&
    (match.slurmJob === undefined || match.slurmJob === cell.slurmJob) &&
    (match.uid === undefined ||
      (uid !== null && match.uid.some(({ from, to }) => from <= uid.from && uid.to <= to)))
  );
}

/**
 * The rules of `earlier` that together match everyone whom `later` matches; only one where one is enough. Null where somebody is left,
 * or where that cannot be decided: globs are compared as texts, so a covered rule may be missed, but none is reported wrongly.
 */
export function coveredBy<T extends { readonly match: Match }>(
  later: Match,
  earlier: readonly T[],
): readonly T[] | null {
  const cells = cellsOf(
    later,
    earlier.map(({ match }) => match),
  );
  if (cells === null) return null;
  const whole = earlier.find(({ match }) => cells.every((cell) => coversCell(match, cell)));
  if (whole !== undefined) return [whole];
  const used = new Set<T>();
  for (const cell of cells) {
    const one = earlier.find(({ match }) => coversCell(match, cell));
    if (one === undefined) return null;
    used.add(one);
  }
  return earlier.filter((one) => used.has(one));
}

/**
 * An index of rules by the users, else by the groups, that they name. A fleet's file may have a rule for each of thousands of people. A
 * rule for alice covers nobody of a rule for bob, so only the rules that could cover somebody are compared.
 */
class EarlierRules<T extends { readonly match: Match }> {
  readonly #byUser = new Map<string, T[]>();
  readonly #byGroup = new Map<string, T[]>();
  readonly #others: T[] = [];
  readonly #places = new Map<T, number>();

  add(rule: T): void {
    this.#places.set(rule, this.#places.size);
    const { user, group } = rule.match;
    const [index, names] = user !== undefined ? [this.#byUser, user] : [this.#byGroup, group];
    if (names === undefined) this.#others.push(rule);
    else for (const name of new Set(names)) index.set(name, [...(index.get(name) ?? []), rule]);
  }

  /** The rules that could cover a part of a match, in their order. */
  candidatesFor({ user = [], group = [] }: Match): readonly T[] {
    const found = new Set(this.#others);
    for (const name of user) for (const rule of this.#byUser.get(name) ?? []) found.add(rule);
    for (const name of group) for (const rule of this.#byGroup.get(name) ?? []) found.add(rule);
    return [...found].sort((a, b) => (this.#places.get(a) ?? 0) - (this.#places.get(b) ?? 0));
  }
}

/** Exempt users, who never reach the proxy, as matches. */
function exemptMatches(exempt: readonly string[]): readonly { readonly match: Match }[] {
  const uids = exempt
    .filter((one) => /^\d+$/.test(one))
    .map((one) => ({ from: Number(one), to: Number(one) }));
  return [{ match: { user: ["root", ...exempt] } }, { match: { uid: [{ from: 0, to: 0 }, ...uids] } }];
}

const quoted = (rules: readonly { readonly name: string }[]): string => {
  const names = rules.map(({ name }) => JSON.stringify(name));
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
};

/** The rules that can never decide: earlier rules match all of their callers, or they name only users who never reach the proxy. */
export function unreachableRules(config: Pick<Config, "rules" | "exempt">): Unreachable[] {
  const exempt = exemptMatches(config.exempt);
  const found: Unreachable[] = [];
  const earlier = new EarlierRules<Config["rules"][number]>();
  const names = new Set<string>();
  for (const [index, rule] of config.rules.entries()) {
    const covering = coveredBy(rule.match, earlier.candidatesFor(rule.match));
    if (covering !== null) {
      const [verb, together] = covering.length === 1 ? ["matches", "already "] : ["match", "together "];
      found.push({
        index,
        why: `(${JSON.stringify(rule.name)}) can never match: ${quoted(covering)} above it ${together}${verb} everyone it names; put it first or take it out`,
      });
    } else if (coveredBy(rule.match, exempt) !== null) {
      found.push({
        index,
        why: `(${JSON.stringify(rule.name)}) can never match: it names only exempt users, who keep the instance role`,
      });
    }
    if (names.has(rule.name)) {
      found.push({
        index,
        why: `has the name ${JSON.stringify(rule.name)} of an earlier rule; give it one of its own`,
      });
    }
    names.add(rule.name);
    earlier.add(rule);
  }
  return found;
}

/** The rules that together leave nobody to the default role; null where somebody may get it, or there is none. */
export function withoutDefault(
  config: Pick<Config, "rules" | "role">,
): readonly { readonly name: string }[] | null {
  return config.role === null ? null : coveredBy({}, config.rules);
}
