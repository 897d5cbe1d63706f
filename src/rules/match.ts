import type { Identity } from "../identity/types.ts";
import { systemUnitOf } from "../identity/unit.ts";
import { compileGlob } from "./glob.ts";
import type { Match, RulesConfig } from "./types.ts";

/** Whether an identity satisfies a match. Parts of the identity may be unknown. */

/** A part of an identity that is unknown, in words that complete "rule X asks for …". */
export interface Unknown {
  readonly what: string;
  /** Whether it may become known later. */
  readonly passing: boolean;
}

export const CGROUP: Unknown = { what: "the cgroup, which is not known", passing: false };
export const unknownJob = (why: string): Unknown => ({
  what: `the Slurm job, which cannot be told: ${why}`,
  passing: false,
});
export const unavailableUser = (why: string): Unknown => ({
  what: `the user's name, which cannot be told for now: ${why}`,
  passing: true,
});
export const unavailableGroups = (why: string): Unknown => ({
  what: `groups, not all of which can be told for now: ${why}`,
  passing: true,
});
const noName = (what: string): Unknown => ({
  what: `${what}, and the uid has no name ("nameless: default" in the configuration passes it over)`,
  passing: false,
});

/** Whether a part of a match holds, or why that is unknown. */
export type Verdict = boolean | Unknown;

/**
 * A match holds where all of its parts hold; a list holds where any of its items does (three-valued logic: false, else unknown,
 * else true).
 */
export function compileMatch(
  match: Match,
  nameless: RulesConfig["nameless"],
): (identity: Identity) => Verdict {
  const parts: ((identity: Identity) => Verdict)[] = [];
  const { user: users, uid: uids, group: groups, slurmJob } = match;
  if (uids !== undefined) parts.push((identity) => uidMatches(uids, identity));
  if (users !== undefined) {
    parts.push(({ user, userUnavailable, uid }) => {
      if (userUnavailable !== undefined) return unavailableUser(userUnavailable);
      if (user !== null) return users.includes(user);
      return uid !== null && nameless === "refuse" && noName("users");
    });
  }
  if (groups !== undefined) {
    parts.push((identity) => {
      if (identity.userUnavailable !== undefined) return unavailableUser(identity.userUnavailable);
      if (identity.groups.some((group) => groups.includes(group))) return true;
      if (identity.groupsUnavailable !== undefined) return unavailableGroups(identity.groupsUnavailable);
      return identity.user === null && identity.uid !== null && nameless === "refuse" && noName("groups");
    });
  }
  const globs = match.cgroup?.map(compileGlob);
  const units = match.unit?.map(compileGlob);
  if (globs !== undefined || units !== undefined || slurmJob !== undefined) {
    parts.push(({ cgroup, writableCgroup, slurmJobId, jobUnknown }) => {
      if (cgroup === null) return CGROUP;
      if (globs !== undefined && !globs.some((glob) => glob(cgroup))) return false;
      const unit = systemUnitOf(cgroup, writableCgroup);
      if (units !== undefined && (unit === null || !units.some((glob) => glob(unit)))) return false;
      if (slurmJob === undefined) return true;
      if (jobUnknown !== undefined) return unknownJob(jobUnknown);
      return slurmJob === (slurmJobId !== null);
    });
  }
  return (identity) => {
    let verdict: Verdict = true;
    for (const part of parts) {
      const one = part(identity);
      if (one === false) return false;
      if (verdict === true) verdict = one;
    }
    return verdict;
  };
}

/** Matches a subordinate uid by itself and by its owner's uid, since the owner took it with newuidmap(1). */
function uidMatches(ranges: NonNullable<Match["uid"]>, { uid, ownerUid }: Identity): boolean {
  const inRanges = (one: number) => ranges.some(({ from, to }) => from <= one && one <= to);
  return (uid !== null && inRanges(uid)) || (ownerUid !== undefined && inRanges(ownerUid));
}
