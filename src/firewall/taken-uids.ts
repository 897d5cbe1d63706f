import { parseSubordinateRanges } from "../identity/shares.ts";
import { FIRST_PERSON } from "./rules.ts";

/**
 * Uids that a person can take: newuidmap(1) gives every uid of a range of /etc/subuid to the owner of the range, even where an
 * account has that uid. useradd(8) gives ranges from 100000 on (SUB_UID_MIN, login.defs(5)), without a look at the directory, and
 * sssd(8) makes the uids of Active Directory from 200000 on (ldap_idmap_range_min, sssd-ldap(5)), so they overlap. Such a uid
 * must not be exempt, because the rules of the firewall depend on the uid alone.
 */

/**
 * The owner of a range that has the uid, where that is a person; null where nobody else can take it. An owner is no person where
 * it is an account of /etc/passwd below {@link FIRST_PERSON} (root for LXD, dockremap), or the account itself. A name that is not
 * in /etc/passwd is taken for a person of a directory. Pure except for `localUidOf`.
 *
 * @param subordinateUids the text of subuid(5).
 * @param localUidOf the uid that /etc/passwd gives a name, or null. Where it throws, the owner is unknown, and taken for a
 *   person.
 */
export function personWhoCanTake(
  uid: number,
  subordinateUids: string,
  localUidOf: (name: string) => number | null,
): string | null {
  // Root stays exempt, even where somebody else can have uid 0.
  if (uid === 0) return null;
  const isHarmless = (one: number | null) => one !== null && (one === uid || one < FIRST_PERSON);
  const local = (name: string): number | null => {
    try {
      return localUidOf(name);
    } catch {
      return null;
    }
  };
  for (const { owner, first, last } of parseSubordinateRanges(subordinateUids)) {
    if (uid < first || uid > last) continue;
    // Digits are the uid of the owner, or the name of an account (shadow-utils, lib/subordinateio.c).
    const named = local(owner);
    if (
      /^\d+$/.test(owner)
        ? !isHarmless(named ?? Number(owner)) || !isHarmless(Number(owner))
        : !isHarmless(named)
    )
      return owner;
  }
  return null;
}
