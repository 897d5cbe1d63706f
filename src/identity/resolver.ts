import type { Accounts } from "./accounts.ts";
import { type Cgroups, slurmJobOf } from "./cgroup.ts";
import type { SocketOwner } from "./lookup.ts";
import type { Identity } from "./types.ts";

/** A uid that two users can have. */
export class AmbiguousIdentity extends Error {}

/** Makes an identity of what the kernel said of a socket: names by NSS, and the cgroup's path where a rule asks for it. */
export class IdentityResolver {
  readonly #accounts: Accounts;
  readonly #cgroups: Cgroups | null;

  /** @param options.cgroups null where no rule asks for cgroups: then none is looked up. */
  constructor(options: { accounts: Accounts; cgroups: Cgroups | null }) {
    this.#accounts = options.accounts;
    this.#cgroups = options.cgroups;
  }

  /**
   * The identity; at once where all is in memory.
   *
   * @throws (or rejects) AmbiguousIdentity, NamesUntold
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
