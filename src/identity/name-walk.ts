import type { NameSwitch, SwitchedService, SwitchStatus } from "./nsswitch.ts";

/**
 * Asks the services of nsswitch.conf in order, as glibc does, and reports what glibc hides: which of them were unavailable.
 * Pure, except for the services that are passed to it.
 */

/** The answer of a service. */
export type ServiceReply<T> =
  | { readonly status: "success"; readonly value: T }
  | { readonly status: "notfound" }
  | { readonly status: "unavail" | "tryagain"; readonly why: string };

/** A service's functions; names as text of src/identity/name-text.ts. */
export interface NameService {
  accountByUid(uid: number): ServiceReply<NamedAccount>;
  accountByName(user: string): ServiceReply<NamedAccount>;
  groupName(gid: number): ServiceReply<string>;
  groupsOf(user: string, gid: number): ServiceReply<readonly number[]>;
}

export interface NamedAccount {
  readonly user: string;
  readonly uid: number;
  readonly gid: number;
}

/** Stands in {@link Unavailable.service} where the cause is no single service. */
export const ANY_SERVICE = "NSS";

/** The last answer for an account, and the service that gave it. */
export type BeforeAccount = NamedAccount & { readonly service: string };

/** A service that was unavailable, and why: `sss (unavailable, errno 111)`. */
export interface Unavailable {
  readonly service: string;
  readonly why: string;
}

/** A group of an account. */
export interface Membership {
  readonly gid: number;
  /** Null where the group has no name, or where `nameUnavailable` says so. */
  readonly name: string | null;
  /** The services that were unavailable when its name was asked for. Empty where the name is known, or where it has none. */
  readonly nameUnavailable: readonly Unavailable[];
  /** The services that named the account a member of it; the service of the account itself for its primary group. */
  readonly by: readonly string[];
}

/** An account; or none; or, where `unavailable` is not empty, unknown. */
export interface AccountAnswer {
  readonly account:
    | (NamedAccount & {
        /** The service that has the account. */
        readonly service: string;
        readonly groups: readonly Membership[];
        /** The services that were unavailable when its groups were asked for: `groups` may be incomplete. */
        readonly groupsUnavailable: readonly Unavailable[];
        /** True where it is the last answer, because its service is unavailable. */
        readonly kept: boolean;
      })
    | null;
  /** The services that were unavailable. Where there is no account and this is empty, the uid or name has none. */
  readonly unavailable: readonly Unavailable[];
}

export interface Walk {
  readonly services: NameSwitch;
  /** The service of that name. */
  open(service: string): NameService;
}

/**
 * The account of a uid with its groups.
 *
 * @param before the last answer. It is used where its service is unavailable and no other service has the uid.
 */
export function accountOfUid(walk: Walk, uid: number, before: BeforeAccount | null): AccountAnswer {
  const asked = ask(walk, walk.services.passwd, (service) =>
    exactly(service.accountByUid(uid), (one) => one.uid === uid),
  );
  const { value, service, unavailable } = asked;
  if (value !== null) return { account: { ...withGroups(walk, value, service), kept: false }, unavailable };
  if (before === null || !cannotTell(unavailable, before.service)) return { account: null, unavailable };
  const { user, gid } = before;
  return { account: { ...withGroups(walk, { user, uid, gid }, before.service), kept: true }, unavailable };
}

/** Whether this service is among the unavailable ones. */
export const cannotTell = (unavailable: readonly Unavailable[], service: string): boolean =>
  unavailable.some((one) => one.service === service || one.service === ANY_SERVICE);

/** The same by name, without groups. */
export function accountOfName(walk: Walk, user: string): AccountAnswer {
  const { value, service, unavailable } = ask(walk, walk.services.passwd, (one) =>
    exactly(one.accountByName(user), (account) => account.user === user),
  );
  const account =
    value === null ? null : { ...value, service, groups: [], groupsUnavailable: [], kept: false };
  return { account, unavailable };
}

/** Discards an answer for another uid or name than was asked for: LDAP compares names without regard to case. */
const exactly = (
  reply: ServiceReply<NamedAccount>,
  same: (account: NamedAccount) => boolean,
): ServiceReply<NamedAccount> =>
  reply.status === "success" && (reply.value.user === "" || !same(reply.value))
    ? { status: "notfound" }
    : reply;

function withGroups(walk: Walk, account: NamedAccount, service: string) {
  const { gids, unavailable: groupsUnavailable } = groupsOf(walk, account);
  gids.set(account.gid, [...new Set([service, ...(gids.get(account.gid) ?? [])])]);
  const groups = [...gids].map(([gid, by]): Membership => {
    const named = ask(walk, walk.services.group, (one) => one.groupName(gid));
    const name = named.value === "" ? null : named.value;
    return { gid, by, name, nameUnavailable: name === null ? named.unavailable : [] };
  });
  return { ...account, service, groups, groupsUnavailable };
}

/**
 * The gids of an account, each with the services that listed it. As in glibc: without a line for initgroups, every service of
 * `group` adds its own.
 */
function groupsOf(
  walk: Walk,
  { user, gid }: NamedAccount,
): { gids: Map<number, string[]>; unavailable: readonly Unavailable[] } {
  const { initgroups, group } = walk.services;
  const gids = new Map<number, string[]>([[gid, []]]);
  const unavailable: Unavailable[] = [];
  for (const { name, actions } of initgroups ?? group) {
    const reply = walk.open(name).groupsOf(user, gid);
    if (reply.status === "success") {
      for (const one of reply.value) if (one !== gid) gids.set(one, [...(gids.get(one) ?? []), name]);
    } else if (reply.status !== "notfound") {
      unavailable.push({ service: name, why: reply.why });
    }
    if (initgroups === null && reply.status === "success") continue;
    if (actions[reply.status] === "return") break;
  }
  return { gids, unavailable };
}

interface Asked<T> {
  readonly value: T | null;
  /** The service that gave the value. */
  readonly service: string;
  readonly unavailable: readonly Unavailable[];
}

function ask<T>(
  walk: Walk,
  services: readonly SwitchedService[],
  call: (service: NameService) => ServiceReply<T>,
): Asked<T> {
  const unavailable: Unavailable[] = [];
  let value: T | null = null;
  let by = "";
  for (const { name, actions } of services) {
    const reply = call(walk.open(name));
    if (reply.status === "success") {
      // The first service that has it decides, even where the switch goes on to merge members of groups: only names count here.
      if (value === null) [value, by] = [reply.value, name];
    } else if (reply.status !== "notfound") {
      unavailable.push({ service: name, why: reply.why });
    }
    const status: SwitchStatus = reply.status;
    if (actions[status] === "return") break;
  }
  return { value, service: by, unavailable };
}
