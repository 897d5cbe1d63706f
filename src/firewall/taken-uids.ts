import { parseSubordinateRanges } from "../identity/shares.ts";
import { FIRST_PERSON } from "./rules.ts";

/**
 * Uids that a person can take: newuidmap(1) gives every uid of a range of /etc/subuid to the owner of the range, also where an
 * account has that uid. useradd(8) gives ranges from 100000 on (SUB_UID_MIN, login.defs(5)), without a look at the directory, and
 * sssd(8) makes the uids of Active Directory from 200000 on (ldap_idmap_range_min, sssd-ldap(5)), so they overlap. Such a uid must
 * not be exempt: the rules of the firewall know nothing but the uid.
 */

/**
 * The owner of a range that has the uid, where that is a person; null where nobody else can take it. Owners are accounts of
 * /etc/passwd below {@link FIRST_PERSON} (root for LXD, dockremap), or the account itself; a name that is not there is a person's of
 * a directory. Pure but for `localUidOf`.
 *
 * @param subordinateUids the text of subuid(5).
 * @param localUidOf the uid that /etc/passwd gives a name, or null. May throw: then the owner is unknown, and taken for a person.
 */
export function personWhoCanTake(
  uid: number,
  subordinateUids: string,
  localUidOf: (name: string) => number | null,
): string | null {
  // Root is uid 0, whoever else can be it.
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
