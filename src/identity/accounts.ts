import type { Clock } from "../platform/clock.ts";
import { FairSlots } from "../platform/fair-slots.ts";

/**
 * uid -> account -> groups, which is NSS's to say (SSSD, LDAP, files), kept for a short while.
 */

/** An account and the names of all its groups. */
export interface Account {
  readonly user: string;
  readonly groups: readonly string[];
}

/** Asks NSS; src/identity/getent.ts is the real one. */
export interface AccountDatabase {
  /** The account of a uid with its groups, or null where the uid has none. @throws where NSS does not answer. */
  byUid(uid: number): Promise<Account | null>;
  /** Who owns the range of subordinate uids that the uid is in (/etc/subuid): every owner, by name. */
  subordinateOwners(uid: number): readonly string[];
  /** The same as {@link byUid} for a name. */
  byName(user: string): Promise<Account | null>;
  /** Changes when the local account files change. */
  fingerprint(): string;
}

/** What a uid is known as. */
export interface KnownAs {
  readonly user: string | null;
  readonly groups: readonly string[];
  readonly subordinate: boolean;
  /** Why nobody can say who this is, where two users can have the uid; then the rest says nothing. */
  readonly conflict?: string;
}

/** How long an answer of NSS is good, and from when on it is asked anew beside the way; milliseconds. */
const LIFE_MS = 60_000;
const REFRESH_AFTER_MS = 30_000;
const NAMELESS_LIFE_MS = 10_000;
/** The same of who owns a range of subordinate uids: they have 65,536 of them, and each would ask for the same owner. */
const OWNER_LIFE_MS = 10_000;
/** How often the local files are looked at. */
const FINGERPRINT_MS = 250;
const MAX_ENTRIES = 10_000;
/** Processes of getent at once. */
const MAX_LOOKUPS = 8;

interface Entry {
  readonly known: KnownAs;
  readonly sinceMs: number;
}

/** The cache. An answer is used until it expires, never after; a look-up that fails is an error for who waits for it. */
export class Accounts {
  readonly #database: AccountDatabase;
  readonly #clock: Clock;
  readonly #entries = new Map<number, Entry>();
  readonly #pending = new Map<number, Promise<KnownAs>>();
  /** No more than /etc/subuid has owners. */
  readonly #owners = new Map<string, { account: Promise<Account | null>; sinceMs: number }>();
  readonly #slots = new FairSlots(MAX_LOOKUPS);
  #fingerprint: string;
  #fingerprintMs: number;

  constructor(options: { database: AccountDatabase; clock: Clock }) {
    this.#database = options.database;
    this.#clock = options.clock;
    this.#fingerprint = options.database.fingerprint();
    this.#fingerprintMs = options.clock.now();
  }

  /** What the uid is known as; at once where that is in memory. @throws (rejects) where NSS does not answer. */
  resolve(uid: number): KnownAs | Promise<KnownAs> {
    const now = this.#clock.now();
    this.#dropIfChanged(now);
    const entry = this.#entries.get(uid);
    if (entry !== undefined) {
      const ageMs = now - entry.sinceMs;
      const lifeMs = entry.known.user === null ? NAMELESS_LIFE_MS : LIFE_MS;
      if (ageMs >= 0 && ageMs < lifeMs) {
        // Beside the way, so that nobody who asks regularly ever waits; a failure here is no answer and changes nothing.
        if (ageMs > REFRESH_AFTER_MS) this.#lookUp(uid).catch(() => {});
        return entry.known;
      }
      this.#entries.delete(uid);
    }
    return this.#lookUp(uid);
  }

  #dropIfChanged(now: number): void {
    const sinceMs = now - this.#fingerprintMs;
    if (sinceMs >= 0 && sinceMs < FINGERPRINT_MS) return;
    this.#fingerprintMs = now;
    const fingerprint = this.#database.fingerprint();
    if (fingerprint === this.#fingerprint) return;
    this.#fingerprint = fingerprint;
    this.#entries.clear();
    this.#pending.clear();
    this.#owners.clear();
  }

  /** The account of an owner in /etc/subuid, asked for once by all who need it. */
  #owner(name: string): Promise<Account | null> {
    const now = this.#clock.now();
    const known = this.#owners.get(name);
    if (known !== undefined && now >= known.sinceMs && now - known.sinceMs < OWNER_LIFE_MS)
      return known.account;
    const account = this.#database.byName(name);
    this.#owners.set(name, { account, sinceMs: now });
    // A failure is no answer, and not kept as one.
    account.catch(() => {
      if (this.#owners.get(name)?.account === account) this.#owners.delete(name);
    });
    return account;
  }

  #lookUp(uid: number): Promise<KnownAs> {
    const pending = this.#pending.get(uid);
    if (pending !== undefined) return pending;
    const fingerprint = this.#fingerprint;
    const lookUp = this.#ask(uid)
      .then((known) => {
        // What was asked before the files changed may be an answer of before.
        if (fingerprint === this.#fingerprint) this.#keep(uid, known);
        return known;
      })
      .finally(() => {
        if (this.#pending.get(uid) === lookUp) this.#pending.delete(uid);
      });
    this.#pending.set(uid, lookUp);
    return lookUp;
  }

  async #ask(uid: number): Promise<KnownAs> {
    const owners = this.#database.subordinateOwners(uid);
    const [owner] = owners;
    // A range of 65,536 uids is one user's, and has one user's share of look-ups.
    const release = await this.#slots.acquire(owner ?? uid);
    try {
      const account = await this.#database.byUid(uid);
      const others = owners.filter((name) => name !== account?.user);
      if (account !== null && others.length > 0) {
        // A directory that gives uids from a range of /etc/subuid: the range's owner takes any of them with newuidmap(1), and
        // is that user to the kernel. Root, who can be anybody, owns ranges for container daemons.
        const found = await Promise.all(others.map((name) => this.#owner(name)));
        const other = found.find((one) => one !== null && one.user !== "root");
        if (other) {
          const conflict = `uid ${uid} is the account ${account.user} and, by /etc/subuid, a subordinate uid of ${other.user}`;
          return { user: null, groups: [], subordinate: true, conflict };
        }
      }
      if (account !== null) return { ...account, subordinate: false };
      // Two owners of one uid would be a guess.
      const ownerAccount = owner !== undefined && owners.length === 1 ? await this.#owner(owner) : null;
      if (ownerAccount !== null) return { ...ownerAccount, subordinate: true };
      return { user: null, groups: [], subordinate: false };
    } finally {
      release();
    }
  }

  #keep(uid: number, known: KnownAs): void {
    this.#entries.delete(uid);
    this.#entries.set(uid, { known, sinceMs: this.#clock.now() });
    if (this.#entries.size > MAX_ENTRIES) {
      const oldest = this.#entries.keys().next().value;
      if (oldest !== undefined) this.#entries.delete(oldest);
    }
  }
}
