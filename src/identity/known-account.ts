import type { AccountAnswer, BeforeAccount, Membership, Unavailable } from "./name-walk.ts";
import { cannotTell } from "./name-walk.ts";

/**
 * Merges an answer of NSS with the last one for the same uid. Pure.
 *
 * While a service is unavailable, its last answer stands in for a new one. Any answer of a service, "no such account" included,
 * replaces its last one.
 */

/** An account as the cache keeps it. */
export interface KnownAccount extends BeforeAccount {
  readonly groups: readonly Membership[];
  /** Why `groups` may be incomplete; null where it is complete. */
  readonly groupsUnavailable: string | null;
}

export interface Outcome {
  /** Null where the uid has no account, or where `unavailable` says why that is unknown. */
  readonly account: KnownAccount | null;
  readonly unavailable: string | null;
  /** Why a part of the last answer was kept; null where none was. */
  readonly kept: string | null;
}

/** @param before the last answer: undefined for none, null for "no account". */
export function outcomeOf(answer: AccountAnswer, before: KnownAccount | null | undefined): Outcome {
  const { account: told, unavailable } = answer;
  if (told === null) {
    if (unavailable.length === 0) return { account: null, unavailable: null, kept: null };
    const why = unavailableText(unavailable);
    // No service could be asked at all; otherwise `answer` has the last account in it.
    if (before != null && cannotTell(unavailable, before.service))
      return { account: before, unavailable: null, kept: why };
    // "No account" was the last answer of every service, and none of them has answered otherwise since.
    if (before === null) return { account: null, unavailable: null, kept: why };
    return { account: null, unavailable: why, kept: null };
  }
  const same = before != null && before.user === told.user && before.uid === told.uid ? before : null;
  const groups = new Map<number, Membership>();
  const missing: Unavailable[] = [];
  let kept = told.kept ? unavailable : [];
  for (const group of told.groups) {
    const old =
      group.nameUnavailable.length === 0 ? undefined : same?.groups.find(({ gid }) => gid === group.gid);
    // "No name" counts as an answer too: the primary group of an account may be a mere number.
    if (old !== undefined && old.nameUnavailable.length === 0) {
      kept = [...kept, ...group.nameUnavailable];
      groups.set(group.gid, { ...group, name: old.name, nameUnavailable: [] });
      continue;
    }
    missing.push(...group.nameUnavailable);
    groups.set(group.gid, group);
  }
  if (told.groupsUnavailable.length > 0) {
    for (const old of same?.groups ?? []) {
      const stillTold = old.by.filter((service) => cannotTell(told.groupsUnavailable, service));
      if (stillTold.length === 0) continue;
      const now = groups.get(old.gid);
      groups.set(
        old.gid,
        now === undefined
          ? { ...old, by: stillTold }
          : { ...now, by: [...new Set([...now.by, ...stillTold])] },
      );
    }
    if (same !== null && same.groupsUnavailable === null) kept = [...kept, ...told.groupsUnavailable];
    else missing.push(...told.groupsUnavailable);
  }
  const { user, uid, gid, service } = told;
  return {
    account: {
      user,
      uid,
      gid,
      service,
      groups: [...groups.values()],
      groupsUnavailable: missing.length === 0 ? null : unavailableText(missing),
    },
    unavailable: null,
    kept: kept.length === 0 ? null : unavailableText(kept),
  };
}

/** `sss (unavailable, errno 111), ldap (did not answer in time)`. */
export function unavailableText(unavailable: readonly Unavailable[]): string {
  const reasons = new Map(unavailable.map(({ service, why }) => [service, why]));
  return [...reasons].map(([service, why]) => `${service} (${why})`).join(", ");
}
