import type { Subject } from "../identity/caller.ts";
import type { SocketOwner } from "../identity/lookup.ts";

/** Callers that are remembered, and of these those of one user. */
const MOST = 256;
const MOST_OF_USER = 16;

/** One who asked for credentials, in numbers alone. */
export interface RecentCaller {
  readonly uid: number;
  /** The cgroup that a rule or a template needed, or null. */
  readonly cgroupId: bigint | null;
  /** Milliseconds since the epoch. */
  readonly askedAtMs: number;
}

/** Who asked for credentials last, so that their sessions can be made anew after a restart before they ask again. */
export class RecentCallers {
  /** In the order in which they asked last. */
  readonly #callers = new Map<string, RecentCaller & { readonly user: Subject }>();
  readonly #ofUser = new Map<Subject, number>();
  #changes = 0;

  /** Counts how often somebody asked who was not remembered. */
  get changes(): number {
    return this.#changes;
  }

  /**
   * Somebody asked.
   *
   * @param user under which name their share is kept: all subordinate uids of a user have one.
   */
  note(owner: Pick<SocketOwner, "uid" | "cgroupId">, user: Subject, nowMs: number): void {
    const key = `${owner.uid} ${owner.cgroupId ?? ""}`;
    if (!this.#forget(key)) this.#changes++;
    if ((this.#ofUser.get(user) ?? 0) >= MOST_OF_USER) this.#forgetOldest(user);
    else if (this.#callers.size >= MOST) this.#forgetOldest(null);
    this.#callers.set(key, { uid: owner.uid, cgroupId: owner.cgroupId, askedAtMs: nowMs, user });
    this.#ofUser.set(user, (this.#ofUser.get(user) ?? 0) + 1);
  }

  /** Those who asked since then; who asked last is last. */
  since(ms: number): RecentCaller[] {
    return [...this.#callers.values()]
      .filter(({ askedAtMs }) => askedAtMs >= ms)
      .map(({ uid, cgroupId, askedAtMs }) => ({ uid, cgroupId, askedAtMs }));
  }

  #forgetOldest(user: Subject | null): void {
    for (const [key, caller] of this.#callers) {
      if (user !== null && caller.user !== user) continue;
      this.#forget(key);
      return;
    }
  }

  #forget(key: string): boolean {
    const known = this.#callers.get(key);
    if (known === undefined) return false;
    this.#callers.delete(key);
    const left = (this.#ofUser.get(known.user) ?? 0) - 1;
    if (left > 0) this.#ofUser.set(known.user, left);
    else this.#ofUser.delete(known.user);
    return true;
  }
}
