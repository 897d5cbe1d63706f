import type { Subject } from "../identity/caller.ts";
import type { SocketOwner } from "../identity/lookup.ts";

/** Callers that are remembered in all, and of one user. */
const MAX_CALLERS = 256;
const MAX_PER_USER = 16;

/** A process that asked for credentials. */
export interface RecentCaller {
  readonly uid: number;
  /** Its cgroup, where a rule or a template needs it; else null. */
  readonly cgroupId: bigint | null;
  /** Milliseconds since the epoch. */
  readonly askedAtMs: number;
}

interface Remembered extends RecentCaller {
  askedAtMs: number;
  readonly user: Subject;
}

/**
 * The callers who asked for credentials most recently (LRU). After a restart their sessions are made before they ask again.
 */
export class RecentCallers {
  /** In the order of their last request. */
  readonly #callers = new Map<string, Remembered>();
  /** The last of them, who mostly asks again; null where it was forgotten. */
  #newest: Remembered | null = null;
  readonly #ofUser = new Map<Subject, number>();
  #changes = 0;

  /** Counts the requests of callers who were not remembered. */
  get changes(): number {
    return this.#changes;
  }

  /**
   * Notes a request for credentials.
   *
   * @param user the subject whose limit it counts towards: one for all subordinate uids of a user.
   */
  note(owner: Pick<SocketOwner, "uid" | "cgroupId">, user: Subject, nowMs: number): void {
    const newest = this.#newest;
    if (newest?.uid === owner.uid && newest.cgroupId === owner.cgroupId && newest.user === user) {
      newest.askedAtMs = nowMs;
      return;
    }
    const key = `${owner.uid} ${owner.cgroupId ?? ""}`;
    if (!this.#forget(key)) this.#changes++;
    if ((this.#ofUser.get(user) ?? 0) >= MAX_PER_USER) this.#forgetOldest(user);
    else if (this.#callers.size >= MAX_CALLERS) this.#forgetOldest(null);
    this.#newest = { uid: owner.uid, cgroupId: owner.cgroupId, askedAtMs: nowMs, user };
    this.#callers.set(key, this.#newest);
    this.#ofUser.set(user, (this.#ofUser.get(user) ?? 0) + 1);
  }

  /** The callers who asked since then, in the order of their last request. */
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
    if (known === this.#newest) this.#newest = null;
    const left = (this.#ofUser.get(known.user) ?? 0) - 1;
    if (left > 0) this.#ofUser.set(known.user, left);
    else this.#ofUser.delete(known.user);
    return true;
  }
}
