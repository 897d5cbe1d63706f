import { SmallMap } from "../platform/small-map.ts";
import type { Accounts, KnownAs } from "./accounts.ts";
import type { Cgroups } from "./cgroup.ts";
import type { SocketOwner } from "./lookup.ts";
import type { FoundJob, SluidJobs } from "./sluid-jobs.ts";
import { jobOf } from "./slurm-job.ts";
import type { Identity } from "./types.ts";

/** The most cgroups of one account that are kept: one for each of a user's jobs. */
const MAX_PATHS = 64;

/** The uid is ambiguous: two users, or every user, can have it. */
export class AmbiguousIdentity extends Error {}

/** Completes what the kernel said of a socket to an identity: names from NSS, and the cgroup's path where a rule needs it. */
export class IdentityResolver {
  readonly #accounts: Accounts;
  readonly #cgroups: Cgroups | null;
  readonly #jobsUnknown: string | null;
  readonly #sluids: Pick<SluidJobs, "resolve"> | null;
  readonly #rootIsUnknown: boolean;
  /** Identities by the answer of NSS for the account, whose object stays the same while the answer does. */
  readonly #made = new WeakMap<KnownAs, SmallMap<string | null, Identity>>();

  /**
   * @param options.cgroups null where no rule needs cgroups.
   * @param options.jobsUnknown why no Slurm job can be known on this node; null, the default, where there is no sign of that.
   * @param options.sluids finds the job of a cgroup that has a SLUID in place of the job's number. Default null: nothing does.
   * @param options.rootIsUnknown whether the root cgroup says nothing of where a caller is ({@link mayHideCgroups}). Default false.
   */
  constructor(options: {
    accounts: Accounts;
    cgroups: Cgroups | null;
    jobsUnknown?: string | null;
    sluids?: Pick<SluidJobs, "resolve"> | null;
    rootIsUnknown?: boolean;
  }) {
    this.#accounts = options.accounts;
    this.#cgroups = options.cgroups;
    this.#jobsUnknown = options.jobsUnknown ?? null;
    this.#sluids = options.sluids ?? null;
    this.#rootIsUnknown = options.rootIsUnknown ?? false;
  }

  /**
   * The identity; synchronous where everything is cached, and then the same object as before. Callers must not modify it.
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

  #assemble(owner: SocketOwner, account: KnownAs, found: string | null): Identity | Promise<Identity> {
    const { uid, cgroupId } = owner;
    const path = found === "/" && this.#rootIsUnknown ? null : found;
    const writable =
      path === null || cgroupId === null ? undefined : (this.#cgroups?.writableAbove(cgroupId) ?? undefined);
    const kept = this.#made.get(account)?.get(path);
    if (kept?.uid === uid && kept.writableCgroup === writable) return kept;
    if (account.conflict !== undefined) throw new AmbiguousIdentity(account.conflict);
    const job = jobOf(path, uid, this.#jobsUnknown, this.#sluids);
    return job instanceof Promise
      ? job.then((found) => this.#make(uid, account, path, writable, found))
      : this.#make(uid, account, path, writable, job);
  }

  #make(
    uid: number,
    account: KnownAs,
    path: string | null,
    writable: string | undefined,
    job: FoundJob,
  ): Identity {
    const { conflict: _, ...rest } = account;
    const identity: Identity = {
      ...{ uid, container: null, ...rest, cgroup: path },
      ...job,
      ...(writable === undefined ? {} : { writableCgroup: writable }),
    };
    // Not kept, because what is unknown now may be known the next time.
    if (job.jobUnknown !== undefined) return identity;
    let made = this.#made.get(account);
    if (made === undefined) {
      made = new SmallMap();
      this.#made.set(account, made);
    }
    if (made.size >= MAX_PATHS) made.clear();
    made.set(path, identity);
    return identity;
  }
}
