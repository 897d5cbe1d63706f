import { SmallMap } from "../platform/small-map.ts";
import type { Accounts, KnownAs } from "./accounts.ts";
import type { Cgroups } from "./cgroup.ts";
import type { SocketOwner } from "./lookup.ts";
import { jobOf } from "./slurm-job.ts";
import type { Identity } from "./types.ts";

/** How many cgroups of one account are kept: one for each of a user's jobs. */
const MAX_PATHS = 64;

/** Two users can have the uid. */
export class AmbiguousIdentity extends Error {}

/** Completes what the kernel said of a socket to an identity: names from NSS, and the cgroup's path where a rule needs it. */
export class IdentityResolver {
  readonly #accounts: Accounts;
  readonly #cgroups: Cgroups | null;
  readonly #jobsUnknown: string | null;
  readonly #rootIsUnknown: boolean;
  /** Identities by what was known of the account: it is the same object for as long as the answer of NSS is kept. */
  readonly #made = new WeakMap<KnownAs, SmallMap<string | null, Identity>>();

  /**
   * @param options.cgroups null where no rule needs cgroups.
   * @param options.jobsUnknown why no Slurm job can be known on this node; null, the default, where there is no sign of that.
   * @param options.rootIsUnknown whether the root cgroup says nothing of where a caller is ({@link mayHideCgroups}). Default false.
   */
  constructor(options: {
    accounts: Accounts;
    cgroups: Cgroups | null;
    jobsUnknown?: string | null;
    rootIsUnknown?: boolean;
  }) {
    this.#accounts = options.accounts;
    this.#cgroups = options.cgroups;
    this.#jobsUnknown = options.jobsUnknown ?? null;
    this.#rootIsUnknown = options.rootIsUnknown ?? false;
  }

  /**
   * The identity; synchronous where everything is cached, and then the same object as before, which is not to be changed.
   *
   * @throws (or rejects) AmbiguousIdentity, NamesUnavailable
   */
  resolve(owner: SocketOwner): Identity | Promise<Identity> {
    const known = this.#accounts.resolve(owner.uid);
    const cgroup =
      this.#cgroups === null || owner.cgroupId === null ? null : this.#cgroups.resolve(owner.cgroupId);
    if (known instanceof Promise || cgroup instanceof Promise) {
      return Promise.all([known, cgroup]).then(([account, path]) => this.#assemble(owner, account, path));
    }
    return this.#assemble(owner, known, cgroup);
  }

  #assemble({ uid, cgroupId }: SocketOwner, account: KnownAs, found: string | null): Identity {
    const path = found === "/" && this.#rootIsUnknown ? null : found;
    const writable =
      path === null || cgroupId === null ? undefined : (this.#cgroups?.writableAbove(cgroupId) ?? undefined);
    let made = this.#made.get(account);
    const kept = made?.get(path);
    if (kept?.uid === uid && kept.writableCgroup === writable) return kept;
    const { conflict, ...rest } = account;
    if (conflict !== undefined) throw new AmbiguousIdentity(conflict);
    const identity: Identity = {
      ...{ uid, container: null, ...rest, cgroup: path },
      ...jobOf(path, uid, this.#jobsUnknown),
      ...(writable === undefined ? {} : { writableCgroup: writable }),
    };
    if (made === undefined) {
      made = new SmallMap();
      this.#made.set(account, made);
    }
    if (made.size >= MAX_PATHS) made.clear();
    made.set(path, identity);
    return identity;
  }
}
