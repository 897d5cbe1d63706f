import type { UnavailableEvent } from "../identity/accounts.ts";
import type { Finding } from "./health.ts";

/** Whether NSS (SSSD, LDAP, …) answers, by the look-ups that failed last. */

/** Milliseconds for which a failed look-up counts. One that is still needed is repeated within 20 s. */
const COUNTS_MS = 60_000;
/** The most users that are counted. */
const MAX_USERS = 1_000;

export class NamesHealth {
  readonly #now: () => number;
  readonly #users = new Set<number>();
  #last: (UnavailableEvent & { readonly atMs: number }) | null = null;

  /** @param options.now milliseconds of a monotonic clock. */
  constructor(options: { readonly now: () => number }) {
    this.#now = options.now;
  }

  unavailable(event: UnavailableEvent): void {
    if (this.#isOver()) this.#users.clear();
    if (this.#users.size < MAX_USERS) this.#users.add(event.uid);
    this.#last = { ...event, atMs: this.#now() };
  }

  /** The finding for an administrator; null where no look-up has failed within the last minute. */
  finding(): Finding | null {
    if (this.#last === null || this.#isOver()) return null;
    const { size } = this.#users;
    return {
      what: `the account database does not answer (${this.#last.why}): for ${size === 1 ? "one user" : `${size} users`} the earlier answer is used; any other user gets 503 where a rule or a session name needs their name or groups`,
      remedy:
        "see the service that /etc/nsswitch.conf names: systemctl status sssd, nslcd or winbind; getent passwd USER",
      lasting: false,
    };
  }

  #isOver(): boolean {
    return this.#last === null || this.#now() - this.#last.atMs > COUNTS_MS;
  }
}
