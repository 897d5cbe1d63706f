import type { Accounts } from "./accounts.ts";
import { type Cgroups, slurmJobOf } from "./cgroup.ts";
import type { SocketOwner } from "./lookup.ts";
import type { Identity } from "./types.ts";

/** Two users can have the uid. */
export class AmbiguousIdentity extends Error {}

/** Completes what the kernel said of a socket to an identity: names from NSS, and the cgroup's path where a rule needs it. */
export class IdentityResolver {
  readonly #accounts: Accounts;
  readonly #cgroups: Cgroups | null;

  /** @param options.cgroups null where no rule needs cgroups. */
  constructor(options: { accounts: Accounts; cgroups: Cgroups | null }) {
    this.#accounts = options.accounts;
    this.#cgroups = options.cgroups;
  }

  /**
   * The identity; synchronous where everything is cached.
   *
   * @throws (or rejects) AmbiguousIdentity, NamesUnavailable
   */
  resolve(owner: SocketOwner): Identity | Promise<Identity> {
    const known = this.#accounts.resolve(owner.uid);
    const cgroup =
      this.#cgroups === null || owner.cgroupId === null ? null : this.#cgroups.resolve(owner.cgroupId);
    const assemble = ({ conflict, ...account }: Awaited<typeof known>, path: string | null): Identity => {
      if (conflict !== undefined) throw new AmbiguousIdentity(conflict);
      return { uid: owner.uid, container: null, ...account, cgroup: path, slurmJobId: slurmJobOf(path) };
    };
    if (known instanceof Promise || cgroup instanceof Promise) {
      return Promise.all([known, cgroup]).then(([account, path]) => assemble(account, path));
    }
    return assemble(known, cgroup);
  }
}
