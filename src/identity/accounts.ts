import type { Clock } from "../platform/clock.ts";
import { FairSlots } from "../platform/fair-slots.ts";
import type { Subject } from "./caller.ts";
import { type KnownAccount, outcomeOf, untoldText } from "./known-account.ts";
import type { OwnersAnswer } from "./name-protocol.ts";
import type { AccountAnswer, BeforeAccount } from "./name-walk.ts";

/**
 * uid -> account -> groups, which is NSS's to say (SSSD, LDAP, files), kept for a short while; and for as long as the service
 * that told it cannot tell.
 */

/** Asks NSS; src/identity/name-database.ts is the real one. None of the calls rejects. */
export interface AccountDatabase {
  /** The account of a uid with its groups. See NameHelpers.byUid for `before`. */
  byUid(uid: number, before: BeforeAccount | null): Promise<AccountAnswer>;
  /** The account of a name, without its groups. `hurry`: a service that did not answer a moment ago is passed over. */
  byName(user: string, hurry: boolean): Promise<AccountAnswer>;
  /** The owners of every range in /etc/subuid that the uid is in, as the file has them: names, or uids in digits. */
  ownersInFile(uid: number): readonly string[];
  /** The service of `subid:` in nsswitch.conf, where /etc/subuid does not count; else null. */
  ownersService(): string | null;
  /** Whose subordinate uid it is, by that service. */
  ownersByService(service: string, uid: number): Promise<OwnersAnswer>;
  /** Changes when the local account files change. */
  fingerprint(): string;
}

/** What a uid is known as. */
export interface KnownAs {
  readonly user: string | null;
  readonly groups: readonly string[];
  readonly subordinate: boolean;
  /** The uid of the account that owns the range which this subordinate uid is in. */
  readonly ownerUid?: number;
  /** Why nobody can say who this is, where two users can have the uid; then the rest says nothing. */
  readonly conflict?: string;
  /** Why the name cannot be told for now; then neither `user` nor `groups` says anything. */
  readonly userUntold?: string;
  /** Why it cannot be told for now of which groups the user is; `groups` has those that are known. */
  readonly groupsUntold?: string;
}

/** What became of a look-up that a service could not answer: what was known is kept, or the name is not known. */
export interface UntoldEvent {
  readonly uid: number;
  readonly outcome: "kept" | "unknown";
  readonly why: string;
}

/** NSS cannot tell for now who it is. */
export class NamesUntold extends Error {
  override readonly name = "NamesUntold";
}

/** How long an answer of NSS is good, and from when on it is asked anew beside the way; milliseconds. */
const LIFE_MS = 60_000;
const REFRESH_AFTER_MS = 30_000;
const NAMELESS_LIFE_MS = 10_000;
/** The same of what was kept because a service cannot tell, and of a name or groups that cannot be told. */
const KEPT_LIFE_MS = 20_000;
const KEPT_REFRESH_AFTER_MS = 5_000;
const UNTOLD_LIFE_MS = 1_000;
/** The same of who owns a range of subordinate uids: they have 65,536 of them, and each would ask for the same owner. */
const OWNER_LIFE_MS = 10_000;
/** How often the local files are looked at. */
const FINGERPRINT_MS = 250;
/** Of uids with an account of their own, and of others: users make the latter with newuidmap(1), and push none of the former out. */
const MAX_ENTRIES = 10_000;
/** Questions to NSS at once. */
const MAX_LOOKUPS = 4;

interface Entry {
  readonly known: KnownAs;
  readonly sinceMs: number;
  readonly lifeMs: number;
  readonly refreshAfterMs: number;
}

interface Composed {
  readonly known: KnownAs;
  /** Whether all of it is told, and nothing kept from before. */
  readonly fresh: boolean;
}

/** What is known of one uid, or that it has no account (null). */
interface Asked {
  readonly account: KnownAccount | null;
  readonly untold: string | null;
  readonly kept: boolean;
}

/** Entries that are found by key; the one that was set the longest ago goes first. */
class Bounded<K, V> {
  readonly #map = new Map<K, V>();
  get = (key: K): V | undefined => this.#map.get(key);
  delete = (key: K): boolean => this.#map.delete(key);
  clear = (): void => this.#map.clear();
  set(key: K, value: V): void {
    this.#map.delete(key);
    this.#map.set(key, value);
    if (this.#map.size <= MAX_ENTRIES) return;
    const oldest = this.#map.keys().next();
    if (oldest.done !== true) this.#map.delete(oldest.value);
  }
}

/** The cache. */
export class Accounts {
  readonly #database: AccountDatabase;
  readonly #clock: Clock;
  readonly #onUntold: (event: UntoldEvent) => void;
  readonly #named = new Bounded<number, Entry>();
  readonly #others = new Bounded<number, Entry>();
  readonly #pending = new Map<number, Promise<KnownAs>>();
  /** What is known of uids with an account, whatever its age: it holds while its service cannot tell. */
  readonly #accounts = new Bounded<number, KnownAccount>();
  /** Uids in ranges of /etc/subuid that had no account of their own when all could tell. */
  readonly #without = new Bounded<number, true>();
  /** Name -> the account that had it, for owners in /etc/subuid; no more than the file has. */
  readonly #uids = new Map<string, BeforeAccount | null>();
  readonly #owners = new Map<string, { readonly answer: Promise<Asked>; readonly sinceMs: number }>();
  readonly #slots = new FairSlots<Subject>(MAX_LOOKUPS);
  #fingerprint: string;
  #fingerprintMs: number;

  /** @param options.onUntold hears of look-ups that a service could not answer. */
  constructor(options: {
    database: AccountDatabase;
    clock: Clock;
    onUntold?: (event: UntoldEvent) => void;
  }) {
    this.#database = options.database;
    this.#clock = options.clock;
    this.#onUntold = options.onUntold ?? (() => {});
    this.#fingerprint = options.database.fingerprint();
    this.#fingerprintMs = options.clock.now();
  }

  /**
   * What the uid is known as; at once where that is in memory.
   *
   * @throws (rejects) NamesUntold where NSS cannot tell for now whose subordinate uid it is.
   */
  resolve(uid: number): KnownAs | Promise<KnownAs> {
    const now = this.#clock.now();
    this.#dropIfChanged(now);
    const entry = this.#named.get(uid) ?? this.#others.get(uid);
    if (entry !== undefined) {
      const ageMs = now - entry.sinceMs;
      if (ageMs >= 0 && ageMs < entry.lifeMs) {
        // Beside the way, so that nobody who asks regularly ever waits; a failure here is no answer and changes nothing.
        if (ageMs > entry.refreshAfterMs) this.#lookUp(uid).catch(() => {});
        return entry.known;
      }
      this.#named.delete(uid);
      this.#others.delete(uid);
    }
    return this.#lookUp(uid);
  }

  /** The uid of an account, or null where there is none of that name. @throws (rejects) NamesUntold */
  async uidOf(user: string): Promise<number | null> {
    const { account, untold } = await this.#byName(user, user);
    if (untold !== null)
      throw new NamesUntold(`NSS cannot tell for now who ${JSON.stringify(user)} is: ${untold}`);
    return account?.uid ?? null;
  }

  #dropIfChanged(now: number): void {
    const sinceMs = now - this.#fingerprintMs;
    if (sinceMs >= 0 && sinceMs < FINGERPRINT_MS) return;
    this.#fingerprintMs = now;
    const fingerprint = this.#database.fingerprint();
    if (fingerprint === this.#fingerprint) return;
    this.#fingerprint = fingerprint;
    // What is remembered in #accounts stays: each look-up asks all services first.
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
        // What was asked before the files changed may be an answer of before.
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
    const untold = known.userUntold !== undefined || known.groupsUntold !== undefined;
    const lifeMs = untold
      ? UNTOLD_LIFE_MS
      : !fresh
        ? KEPT_LIFE_MS
        : known.user === null
          ? NAMELESS_LIFE_MS
          : LIFE_MS;
    const refreshAfterMs = fresh ? REFRESH_AFTER_MS : KEPT_REFRESH_AFTER_MS;
    const own = known.user !== null && !known.subordinate;
    (own ? this.#others : this.#named).delete(uid);
    (own ? this.#named : this.#others).set(uid, {
      known,
      sinceMs: this.#clock.now(),
      lifeMs,
      refreshAfterMs,
    });
  }

  async #compose(uid: number): Promise<Composed> {
    const service = this.#database.ownersService();
    const named = service === null ? this.#database.ownersInFile(uid) : [];
    // A range of 65,536 uids is one user's, and has one user's share of look-ups.
    const share = named[0] ?? uid;
    const own = await this.#account(uid, share, named.length > 0);
    const owners = await this.#ownersOf(uid, named, service, own);
    if (own.account !== null) return this.#ownAccount(uid, own.account, own.kept, owners);
    const [first, ...more] = owners.accounts;
    if (first !== undefined) {
      // Either would be a guess, and a uid of the directory may be in a range of /etc/subuid.
      if (more.length > 0) {
        const text = owners.accounts.map(({ user }) => user).join(" and of ");
        return conflict(`uid ${uid} is a subordinate uid of ${text}`);
      }
      if (own.untold !== null)
        throw new NamesUntold(
          `uid ${uid} is a subordinate uid of ${first.user}, and NSS cannot tell for now whether it is an account: ${own.untold}`,
        );
      return {
        known: { ...knownAs(first), subordinate: true, ownerUid: first.uid },
        fresh: !own.kept && !owners.kept && first.groupsUntold === null,
      };
    }
    if (owners.untold !== null)
      throw new NamesUntold(`NSS cannot tell for now whose subordinate uid ${uid} is: ${owners.untold}`);
    if (owners.why !== null) return conflict(owners.why);
    if (own.untold !== null) {
      return {
        known: { user: null, groups: [], subordinate: false, userUntold: own.untold },
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
    if (owners.untold !== null) {
      throw new NamesUntold(
        `uid ${uid} is the account ${account.user} and in a range of subordinate uids, whose owner cannot be told for now: ${owners.untold}`,
      );
    }
    const known = knownAs(account);
    return { known: { ...known, subordinate: false }, fresh: !kept && known.groupsUntold === undefined };
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
      if (found.accounts.length > 0 || found.untold !== null) return found;
      const owners = named.map((owner) => JSON.stringify(owner)).join(", ");
      return { ...found, why: `uid ${uid} is in a range of /etc/subuid whose owner ${owners} is no account` };
    }
    const answer = await this.#database.ownersByService(service, uid);
    if (answer.status === "success") {
      const asked = await Promise.all(answer.owners.map((owner) => this.#owner(owner)));
      const found = ownersFrom(asked, `subid: ${service}`);
      if (answer.owners.length === 0 || found.accounts.length > 0 || found.untold !== null) return found;
      return { ...found, why: `uid ${uid} is a subordinate uid, by ${found.source}, of no account` };
    }
    // An account is itself. Who has no name may be anybody's subordinate uid.
    if (own.account !== null) return NO_OWNERS;
    if (answer.status === "unavail") return { ...NO_OWNERS, untold: `${service} does not answer` };
    const why = `uid ${uid} has no name, and ${service}, which knows subordinate uids by nsswitch.conf, cannot tell whose it is`;
    return { ...NO_OWNERS, why };
  }

  /** The account of an owner in /etc/subuid, asked for once by all who need it. */
  #byNameOfOwner(owner: string): Promise<Asked> {
    return this.#once(`name ${owner}`, async () => {
      const found = await this.#byName(owner, owner);
      return found.account === null
        ? { account: null, untold: found.untold, kept: false }
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
    // A failure is no answer, and not kept as one.
    answer.then(({ untold }) => untold !== null && forget(), forget);
    return answer;
  }

  /**
   * Asks NSS for the account of a uid, whatever is in memory, and remembers what comes of it.
   *
   * @param inRange whether /etc/subuid says whose it is: then that it had no account of its own is kept as well. Anybody else
   *   may have been given one since.
   */
  async #account(uid: number, share: Subject, inRange: boolean): Promise<Asked> {
    const release = await this.#slots.acquire(share);
    try {
      const before = this.#accounts.get(uid);
      const answer = await this.#database.byUid(uid, before === undefined ? null : beforeOf(before));
      const known = before ?? (inRange && this.#without.get(uid) === true ? null : undefined);
      const { account, untold, kept } = outcomeOf(answer, known);
      if (kept !== null) this.#onUntold({ uid, outcome: "kept", why: kept });
      const unknown = untold ?? account?.groupsUntold ?? null;
      if (unknown !== null) this.#onUntold({ uid, outcome: "unknown", why: unknown });
      if (account !== null) {
        this.#without.delete(uid);
        this.#accounts.set(uid, account);
      } else if (untold === null) {
        this.#accounts.delete(uid);
        if (inRange) this.#without.set(uid, true);
      }
      return { account, untold, kept: kept !== null };
    } finally {
      release();
    }
  }

  async #byName(
    user: string,
    share: Subject,
  ): Promise<{ account: BeforeAccount | null; untold: string | null }> {
    const release = await this.#slots.acquire(share);
    try {
      const before = this.#uids.get(user);
      const { account, untold } = await this.#database.byName(user, before != null);
      if (account !== null || untold.length === 0) {
        this.#uids.set(user, account === null ? null : beforeOf(account));
        return { account, untold: null };
      }
      if (before != null && untold.some(({ service }) => service === before.service))
        return { account: before, untold: null };
      return { account: null, untold: untoldText(untold) };
    } finally {
      release();
    }
  }
}

/** The accounts that can take a uid, each once, root last where there are others. */
interface Owners {
  readonly accounts: readonly KnownAccount[];
  /** Why further owners cannot be told for now, or null. */
  readonly untold: string | null;
  /** Why nobody can be told whose it is, or null. */
  readonly why: string | null;
  readonly kept: boolean;
  readonly source: string;
}

const NO_OWNERS: Owners = { accounts: [], untold: null, why: null, kept: false, source: "/etc/subuid" };

function ownersFrom(asked: readonly Asked[], source: string): Owners {
  const accounts = new Map<number, KnownAccount>();
  for (const { account } of asked) if (account !== null) accounts.set(account.uid, account);
  // Root can be anybody: what another owns beside root is that user's.
  if (accounts.size > 1) accounts.delete(0);
  const untold = asked.map((one) => one.untold).filter((why) => why !== null);
  return {
    accounts: [...accounts.values()],
    untold: untold[0] ?? null,
    why: null,
    kept: asked.some(({ kept }) => kept),
    source,
  };
}

const conflict = (why: string): Composed => ({
  known: { user: null, groups: [], subordinate: true, conflict: why },
  fresh: true,
});

const beforeOf = ({ user, uid, gid, service }: BeforeAccount): BeforeAccount => ({ user, uid, gid, service });

function knownAs(account: KnownAccount): Omit<KnownAs, "subordinate"> {
  const groups = account.groups.map(({ name }) => name).filter((name) => name !== null);
  return {
    user: account.user,
    groups,
    ...(account.groupsUntold === null ? {} : { groupsUntold: account.groupsUntold }),
  };
}
