import type { Clock } from "../platform/clock.ts";
import { FairSlots } from "../platform/fair-slots.ts";
import type { Subject } from "./caller.ts";
import { type KnownAccount, outcomeOf, unavailableText } from "./known-account.ts";
import type { OwnersAnswer } from "./name-protocol.ts";
import type { AccountAnswer, BeforeAccount } from "./name-walk.ts";

/**
 * A cache of what NSS (files, SSSD, LDAP) says of a uid: its account and groups. An answer expires after a minute. While the
 * service that gave it is unavailable, the last answer is served in its place (stale-if-error).
 */

/** Asks NSS; src/identity/name-database.ts is the real one. None of the calls rejects. */
export interface AccountDatabase {
  /** The account of a uid with its groups. See NameHelpers.byUid for `before`. */
  byUid(uid: number, before: BeforeAccount | null): Promise<AccountAnswer>;
  /** The account of a name, without its groups. With `hurry`, a service that just timed out is not asked again. */
  byName(user: string, hurry: boolean): Promise<AccountAnswer>;
  /** The owner of each range in /etc/subuid that contains the uid, as written in the file: a name, or a uid in digits. */
  ownersInFile(uid: number): readonly string[];
  /** The service that `subid:` in nsswitch.conf names in place of /etc/subuid; null where it names none. */
  ownersService(): string | null;
  /** Asks that service who owns a subordinate uid. */
  ownersByService(service: string, uid: number): Promise<OwnersAnswer>;
  /** Whether systemd-nsresourced has given the uid to a user now, for a user namespace. */
  isAllocated(uid: number): boolean;
  /** Changes when the local account files change. */
  fingerprint(): string;
}

/** What is known of a uid. */
export interface KnownAs {
  readonly user: string | null;
  readonly groups: readonly string[];
  readonly subordinate: boolean;
  /** The uid of the account that owns the range which this subordinate uid is in. */
  readonly ownerUid?: number;
  /** Why the uid is ambiguous: two users, or every user, can have it. The other fields are then meaningless. */
  readonly conflict?: string;
  /** Why the name is unavailable for now. `user` and `groups` are then meaningless. */
  readonly userUnavailable?: string;
  /** Why some groups are unavailable for now; `groups` has the others. */
  readonly groupsUnavailable?: string;
}

/** A look-up that an unavailable service could not answer: the last answer was kept, or there was none. */
export interface UnavailableEvent {
  readonly uid: number;
  readonly outcome: "kept" | "unknown";
  readonly why: string;
}

/** NSS is unavailable, so that the name is unknown for now. */
export class NamesUnavailable extends Error {
  override readonly name = "NamesUnavailable";
}

/** When an answer of NSS expires, and the age from which it is refreshed in the background; milliseconds. */
const LIFE_MS = 60_000;
const REFRESH_AFTER_MS = 30_000;
const NAMELESS_LIFE_MS = 10_000;
/** The same for an answer that was kept because its service is unavailable, and for a name or groups that are unknown. */
const KEPT_LIFE_MS = 20_000;
const KEPT_REFRESH_AFTER_MS = 5_000;
const UNAVAILABLE_LIFE_MS = 1_000;
/** The same for the owner of a range: all of its 65,536 uids ask for the same one. */
const OWNER_LIFE_MS = 10_000;
/** How often the local files are checked for changes, in milliseconds. */
const FINGERPRINT_MS = 250;
/**
 * Entries of each of two caches: uids with an account, and others. Users can make the latter at will with newuidmap(1), and so
 * must not evict the former.
 */
const MAX_ENTRIES = 10_000;
/** Concurrent questions to NSS. */
const MAX_LOOKUPS = 4;

interface Entry {
  readonly known: KnownAs;
  readonly sinceMs: number;
  readonly lifeMs: number;
  readonly refreshAfterMs: number;
}

interface Composed {
  readonly known: KnownAs;
  /** Whether every part is a new answer, and none was kept from an earlier one. */
  readonly fresh: boolean;
}

/** The account of one uid; null where it has none, or where `unavailable` says why that is unknown. */
interface Asked {
  readonly account: KnownAccount | null;
  readonly unavailable: string | null;
  readonly kept: boolean;
}

/** A map of bounded size, which evicts the entry that was set first. */
class Bounded<K, V> {
  readonly #map = new Map<K, V>();
  get = (key: K): V | undefined => this.#map.get(key);
  delete = (key: K): boolean => this.#map.delete(key);
  clear = (): void => this.#map.clear();
  set(key: K, value: V): void {
    this.#map.delete(key);
    this.#map.set(key, value);
    if (this.#map.size > MAX_ENTRIES) this.dropOldest(() => true);
  }
  /** Evicts the entry that was set first, where `isUseless` says so. @returns whether it did. */
  dropOldest(isUseless: (value: V) => boolean): boolean {
    const oldest = this.#map.entries().next();
    if (oldest.done === true || !isUseless(oldest.value[1])) return false;
    return this.#map.delete(oldest.value[0]);
  }
}

/** The cache. */
export class Accounts {
  readonly #database: AccountDatabase;
  readonly #clock: Clock;
  readonly #onUnavailable: (event: UnavailableEvent) => void;
  readonly #named = new Bounded<number, Entry>();
  readonly #others = new Bounded<number, Entry>();
  readonly #pending = new Map<number, Promise<KnownAs>>();
  /** The last answer for each uid with an account, whatever its age: it is served while its service is unavailable. */
  readonly #accounts = new Bounded<number, KnownAccount>();
  /** Uids in ranges of /etc/subuid that had no account of their own when every service last answered. */
  readonly #without = new Bounded<number, true>();
  /** The last answer by name, for owners in /etc/subuid; bounded by the length of that file. */
  readonly #uids = new Map<string, BeforeAccount | null>();
  readonly #owners = new Map<string, { readonly answer: Promise<Asked>; readonly sinceMs: number }>();
  readonly #slots = new FairSlots<Subject>(MAX_LOOKUPS);
  #fingerprint: string;
  #fingerprintMs: number;

  /** @param options.onUnavailable called for each look-up that a service could not answer. */
  constructor(options: {
    database: AccountDatabase;
    clock: Clock;
    onUnavailable?: (event: UnavailableEvent) => void;
  }) {
    this.#database = options.database;
    this.#clock = options.clock;
    this.#onUnavailable = options.onUnavailable ?? (() => {});
    this.#fingerprint = options.database.fingerprint();
    this.#fingerprintMs = options.clock.now();
  }

  /**
   * Who the uid is; synchronous on a cache hit.
   *
   * @throws (rejects) NamesUnavailable where NSS is unavailable and the owner of a subordinate uid is therefore unknown.
   */
  resolve(uid: number): KnownAs | Promise<KnownAs> {
    const now = this.#clock.now();
    this.#dropIfChanged(now);
    // Checked before the cache, because an account of a directory may have the same uid.
    if (this.#database.isAllocated(uid)) return allocated(uid);
    const entry = this.#named.get(uid) ?? this.#others.get(uid);
    if (entry !== undefined) {
      const ageMs = now - entry.sinceMs;
      if (ageMs >= 0 && ageMs < entry.lifeMs) {
        // In the background, so that a caller who asks regularly never waits. A failure changes nothing.
        if (ageMs > entry.refreshAfterMs) this.#lookUp(uid).catch(() => {});
        return entry.known;
      }
      this.#named.delete(uid);
      this.#others.delete(uid);
    }
    return this.#lookUp(uid);
  }

  /** The uid of an account, or null where there is none of that name. @throws (rejects) NamesUnavailable */
  async uidOf(user: string): Promise<number | null> {
    const { account, unavailable } = await this.#byName(user, user);
    if (unavailable !== null)
      throw new NamesUnavailable(`NSS cannot tell for now who ${JSON.stringify(user)} is: ${unavailable}`);
    return account?.uid ?? null;
  }

  #dropIfChanged(now: number): void {
    const sinceMs = now - this.#fingerprintMs;
    if (sinceMs >= 0 && sinceMs < FINGERPRINT_MS) return;
    this.#fingerprintMs = now;
    const fingerprint = this.#database.fingerprint();
    if (fingerprint === this.#fingerprint) return;
    this.#fingerprint = fingerprint;
    // #accounts stays: it is read only where a new look-up fails.
    this.#named.clear();
    this.#others.clear();
    this.#pending.clear();
    this.#owners.clear();
  }

  #lookUp(uid: number): Promise<KnownAs> {
    const pending = this.#pending.get(uid);
    if (pending !== undefined) return pending;
    const fingerprint = this.#fingerprint;
    const lookUp = this.#compose(uid)
      .then(({ known, fresh }) => {
        // A look-up that began before the files changed may have read the old ones.
        if (fingerprint === this.#fingerprint) this.#keep(uid, known, fresh);
        return known;
      })
      .finally(() => {
        if (this.#pending.get(uid) === lookUp) this.#pending.delete(uid);
      });
    this.#pending.set(uid, lookUp);
    return lookUp;
  }

  #keep(uid: number, known: KnownAs, fresh: boolean): void {
    const unavailable = known.userUnavailable !== undefined || known.groupsUnavailable !== undefined;
    const lifeMs = unavailable
      ? UNAVAILABLE_LIFE_MS
      : !fresh
        ? KEPT_LIFE_MS
        : known.user === null
          ? NAMELESS_LIFE_MS
          : LIFE_MS;
    const refreshAfterMs = fresh ? REFRESH_AFTER_MS : KEPT_REFRESH_AFTER_MS;
    const own = known.user !== null && !known.subordinate;
    const [entries, others] = own ? [this.#named, this.#others] : [this.#others, this.#named];
    const before = entries.get(uid)?.known;
    others.delete(uid);
    const now = this.#clock.now();
    // An answer that is equal keeps its object, because the identities made from it are found by that object (resolver.ts).
    const same = before !== undefined && Bun.deepEquals(before, known, true) ? before : known;
    entries.set(uid, { known: same, sinceMs: now, lifeMs, refreshAfterMs });
    // Each new entry evicts up to two that have expired, so that those which nobody asks for again are freed, with all that was
    // made from them.
    const isOver = ({ sinceMs, lifeMs: ofLife }: Entry) => now - sinceMs >= ofLife;
    for (let count = 0; count < 2 && entries.dropOldest(isOver); count++);
  }

  async #compose(uid: number): Promise<Composed> {
    const service = this.#database.ownersService();
    const named = service === null ? this.#database.ownersInFile(uid) : [];
    // All uids of a range count as one user, so that its owner gets no more look-ups than others.
    const share = named[0] ?? uid;
    const own = await this.#account(uid, share, named.length > 0);
    const owners = await this.#ownersOf(uid, named, service, own);
    if (own.account !== null) return this.#ownAccount(uid, own.account, own.kept, owners);
    const [first, ...more] = owners.accounts;
    if (first !== undefined) {
      // With two owners, choosing one would be a guess.
      if (more.length > 0) {
        const text = owners.accounts.map(({ user }) => user).join(" and of ");
        return conflict(`uid ${uid} is a subordinate uid of ${text}`);
      }
      if (own.unavailable !== null)
        throw new NamesUnavailable(
          `uid ${uid} is a subordinate uid of ${first.user}, and NSS cannot tell for now whether it is an account: ${own.unavailable}`,
        );
      return {
        known: { ...knownAs(first), subordinate: true, ownerUid: first.uid },
        fresh: !own.kept && !owners.kept && first.groupsUnavailable === null,
      };
    }
    if (owners.unavailable !== null)
      throw new NamesUnavailable(
        `NSS cannot tell for now whose subordinate uid ${uid} is: ${owners.unavailable}`,
      );
    if (owners.why !== null) return conflict(owners.why);
    if (own.unavailable !== null) {
      return {
        known: { user: null, groups: [], subordinate: false, userUnavailable: own.unavailable },
        fresh: false,
      };
    }
    return { known: { user: null, groups: [], subordinate: false }, fresh: !own.kept };
  }

  #ownAccount(uid: number, account: KnownAccount, kept: boolean, owners: Owners): Composed {
    // A directory that gives uids from a range of /etc/subuid: the range's owner takes any of them with newuidmap(1), and
    // is that user to the kernel. Root, who can be anybody, owns ranges for container daemons.
    const other = owners.accounts.find((one) => one.uid !== uid && one.uid !== 0);
    if (other !== undefined) {
      return conflict(
        `uid ${uid} is the account ${account.user} and, by ${owners.source}, a subordinate uid of ${other.user}`,
      );
    }
    if (owners.unavailable !== null) {
      throw new NamesUnavailable(
        `uid ${uid} is the account ${account.user} and in a range of subordinate uids, whose owner cannot be told for now: ${owners.unavailable}`,
      );
    }
    const known = knownAs(account);
    return { known: { ...known, subordinate: false }, fresh: !kept && known.groupsUnavailable === undefined };
  }

  /** Who can take the uid with newuidmap(1). */
  async #ownersOf(
    uid: number,
    named: readonly string[],
    service: string | null,
    own: Asked,
  ): Promise<Owners> {
    if (service === null) {
      if (named.length === 0) return NO_OWNERS;
      // newuidmap takes an owner for the account of that name or, where it is digits, of that uid (shadow-utils, lib/subordinateio.c).
      const asked = await Promise.all(
        named.flatMap((owner) => [
          this.#byNameOfOwner(owner),
          ...(/^\d{1,10}$/.test(owner) ? [this.#owner(Number(owner))] : []),
        ]),
      );
      const found = ownersFrom(asked, "/etc/subuid");
      if (found.accounts.length > 0 || found.unavailable !== null) return found;
      const owners = named.map((owner) => JSON.stringify(owner)).join(", ");
      return { ...found, why: `uid ${uid} is in a range of /etc/subuid whose owner ${owners} is no account` };
    }
    const answer = await this.#database.ownersByService(service, uid);
    if (answer.status === "success") {
      const asked = await Promise.all(answer.owners.map((owner) => this.#owner(owner)));
      const found = ownersFrom(asked, `subid: ${service}`);
      if (answer.owners.length === 0 || found.accounts.length > 0 || found.unavailable !== null) return found;
      return { ...found, why: `uid ${uid} is a subordinate uid, by ${found.source}, of no account` };
    }
    // A uid with an account is that account. One without may be anybody's subordinate uid.
    if (own.account !== null) return NO_OWNERS;
    if (answer.status === "unavail") return { ...NO_OWNERS, unavailable: `${service} does not answer` };
    const why = `uid ${uid} has no name, and ${service}, which knows subordinate uids by nsswitch.conf, cannot tell whose it is`;
    return { ...NO_OWNERS, why };
  }

  /** The account of an owner in /etc/subuid, asked for once by all who need it. */
  #byNameOfOwner(owner: string): Promise<Asked> {
    return this.#once(`name ${owner}`, async () => {
      const found = await this.#byName(owner, owner);
      return found.account === null
        ? { account: null, unavailable: found.unavailable, kept: false }
        : this.#owner(found.account.uid);
    });
  }

  #owner(uid: number): Promise<Asked> {
    return this.#once(`uid ${uid}`, () => this.#account(uid, uid, false));
  }

  #once(key: string, ask: () => Promise<Asked>): Promise<Asked> {
    const now = this.#clock.now();
    const known = this.#owners.get(key);
    if (known !== undefined && now >= known.sinceMs && now - known.sinceMs < OWNER_LIFE_MS)
      return known.answer;
    const answer = ask();
    this.#owners.set(key, { answer, sinceMs: now });
    const forget = () => {
      if (this.#owners.get(key)?.answer === answer) this.#owners.delete(key);
    };
    // A failure is not cached.
    answer.then(({ unavailable }) => unavailable !== null && forget(), forget);
    return answer;
  }

  /**
   * Asks NSS for the account of a uid, past the cache, and stores the answer.
   *
   * @param inRange whether the uid is in a range of /etc/subuid. Only then is "no account" kept for when a service is
   *   unavailable: any other uid may have been given an account since.
   */
  async #account(uid: number, share: Subject, inRange: boolean): Promise<Asked> {
    const release = await this.#slots.acquire(share);
    try {
      const before = this.#accounts.get(uid);
      const fingerprint = this.#fingerprint;
      const answer = await this.#database.byUid(uid, before === undefined ? null : beforeOf(before));
      const known = before ?? (inRange && this.#without.get(uid) === true ? null : undefined);
      const { account, unavailable, kept } = outcomeOf(answer, known);
      if (kept !== null) this.#onUnavailable({ uid, outcome: "kept", why: kept });
      const unknown = unavailable ?? account?.groupsUnavailable ?? null;
      if (unknown !== null) this.#onUnavailable({ uid, outcome: "unknown", why: unknown });
      // A look-up that began before the files changed may have read the old ones, and a later one may have ended first.
      if (fingerprint !== this.#fingerprint) return { account, unavailable, kept: kept !== null };
      if (account !== null) {
        this.#without.delete(uid);
        this.#accounts.set(uid, account);
      } else if (unavailable === null) {
        this.#accounts.delete(uid);
        if (inRange) this.#without.set(uid, true);
      }
      return { account, unavailable, kept: kept !== null };
    } finally {
      release();
    }
  }

  async #byName(
    user: string,
    share: Subject,
  ): Promise<{ account: BeforeAccount | null; unavailable: string | null }> {
    const release = await this.#slots.acquire(share);
    try {
      const before = this.#uids.get(user);
      const { account, unavailable } = await this.#database.byName(user, before != null);
      if (account !== null || unavailable.length === 0) {
        this.#uids.set(user, account === null ? null : beforeOf(account));
        return { account, unavailable: null };
      }
      if (before != null && unavailable.some(({ service }) => service === before.service))
        return { account: before, unavailable: null };
      return { account: null, unavailable: unavailableText(unavailable) };
    } finally {
      release();
    }
  }
}

/** The accounts that can take a uid, each once, root last where there are others. */
interface Owners {
  readonly accounts: readonly KnownAccount[];
  /** Why there may be owners that are unknown for now, or null. */
  readonly unavailable: string | null;
  /** Why the owner cannot be found at all, or null. */
  readonly why: string | null;
  readonly kept: boolean;
  readonly source: string;
}

const NO_OWNERS: Owners = { accounts: [], unavailable: null, why: null, kept: false, source: "/etc/subuid" };

function ownersFrom(asked: readonly Asked[], source: string): Owners {
  const accounts = new Map<number, KnownAccount>();
  for (const { account } of asked) if (account !== null) accounts.set(account.uid, account);
  // Root can take any uid anyway: a range that root and one user own is that user's.
  if (accounts.size > 1) accounts.delete(0);
  const unavailable = asked.map((one) => one.unavailable).filter((why) => why !== null);
  return {
    accounts: [...accounts.values()],
    unavailable: unavailable[0] ?? null,
    why: null,
    kept: asked.some(({ kept }) => kept),
    source,
  };
}

const conflict = (why: string): Composed => ({
  known: { user: null, groups: [], subordinate: true, conflict: why },
  fresh: true,
});

const allocated = (uid: number): KnownAs => ({
  user: null,
  groups: [],
  subordinate: true,
  conflict: `uid ${uid} is one that systemd-nsresourced has given to a user for a namespace, and nothing says to whom`,
});

const beforeOf = ({ user, uid, gid, service }: BeforeAccount): BeforeAccount => ({ user, uid, gid, service });

function knownAs(account: KnownAccount): Omit<KnownAs, "subordinate"> {
  const groups = account.groups.map(({ name }) => name).filter((name) => name !== null);
  return {
    user: account.user,
    groups,
    ...(account.groupsUnavailable === null ? {} : { groupsUnavailable: account.groupsUnavailable }),
  };
}
