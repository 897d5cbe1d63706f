import type { Config, Match } from "./schema.ts";

/** A rule that no caller can ever reach, and why. */
export interface Unreachable {
  /** Place in `rules`, from 0. */
  readonly index: number;
  readonly why: string;
}

const within = <T>(inner: readonly T[], outer: readonly T[]) => inner.every((item) => outer.includes(item));

/** Whether `earlier` matches everyone whom `later` matches. Sound but not complete: false where that is undecided. */
function covers(earlier: Match, later: Match): boolean {
  if (earlier.user !== undefined && !(later.user !== undefined && within(later.user, earlier.user)))
    return false;
  if (earlier.group !== undefined && !(later.group !== undefined && within(later.group, earlier.group)))
    return false;
  if (earlier.cgroup !== undefined && !(later.cgroup !== undefined && within(later.cgroup, earlier.cgroup)))
    return false;
  if (earlier.slurmJob !== undefined && earlier.slurmJob !== later.slurmJob) return false;
  const wide = earlier.uid;
  if (wide === undefined) return true;
  return (
    later.uid?.every((inner) => wide.some((outer) => outer.from <= inner.from && inner.to <= outer.to)) ??
    false
  );
}

/** The rules that can never decide: an earlier one takes all of theirs, or they name only users who never come through the proxy. */
export function unreachableRules(config: Pick<Config, "rules" | "exempt">): Unreachable[] {
  const exempt = new Set(["root", ...config.exempt]);
  const found: Unreachable[] = [];
  for (const [index, rule] of config.rules.entries()) {
    const earlier = config.rules.slice(0, index).find((other) => covers(other.match, rule.match));
    if (earlier !== undefined) {
      found.push({
        index,
        why: `(${JSON.stringify(rule.name)}) can never match: ${JSON.stringify(earlier.name)} above it already matches everyone it names; put it first or take it out`,
      });
    } else if (
      rule.match.user?.every((user) => exempt.has(user)) ||
      rule.match.uid?.every(({ to }) => to === 0)
    ) {
      found.push({
        index,
        why: `(${JSON.stringify(rule.name)}) can never match: it names only exempt users, who keep the instance role`,
      });
    }
    if (config.rules.slice(0, index).some((other) => other.name === rule.name)) {
      found.push({
        index,
        why: `has the name ${JSON.stringify(rule.name)} of an earlier rule; give it one of its own`,
      });
    }
  }
  return found;
}
