import { type Subject, shareOf, subjectOf } from "../identity/caller.ts";
import type { RequestEvent } from "../imds/request-event.ts";

/** Recent users and what they got, for `imdsproxy status`. In memory only, and bounded. */

/** Milliseconds for which a user is remembered after their last request. */
export const SEEN_MS = 4 * 3_600_000;
/**
 * The most users that are remembered, and the most containers among them. Subordinate uids count as their owner, so that no user
 * fills this alone. A container can take any address of its bridge, so containers evict only each other beyond their part.
 */
const MAX_USERS = 1_024;
const MAX_CONTAINERS = 256;

/**
 * The outcome of the last request for a role or its credentials. `metadata`: none was asked for. `denied`: by STS. `refused`: by the
 * rules, or because nobody could say who asks.
 */
export type SeenOutcome = "credentials" | "denied" | "unavailable" | "refused" | "metadata";

/** A user who asked. Times are milliseconds since the epoch. */
export interface SeenUser {
  readonly share: Subject;
  /** The uid of the last request, or the address of a container. */
  readonly subject: Subject;
  /** Their name, as the last answer that depended on it had it; null where none has, or where they have none. */
  readonly user: string | null;
  readonly firstMs: number;
  readonly lastMs: number;
  readonly requests: number;
  /** Requests without a token, which are IMDSv1's. */
  readonly v1: number;
  readonly v2: number;
  readonly outcome: SeenOutcome;
  /** ARN of the role; null where there is none. */
  readonly role: string | null;
  /** For a rule with `grant: union`, the names of the grants that matched; null for any other rule. */
  readonly grants: readonly string[] | null;
  /** Why there is no role. */
  readonly why: string | null;
}

type Row = { -readonly [Key in keyof SeenUser]: SeenUser[Key] };

export class SeenUsers {
  readonly #now: () => number;
  readonly #users = new Map<Subject, Row>();

  /** @param options.now milliseconds since the epoch. */
  constructor(options: { readonly now: () => number }) {
    this.#now = options.now;
  }

  /**
   * Records a request that was answered. Not counted are `whoami`, with which users look at themselves, and root, who looks at
   * the health.
   */
  request(event: RequestEvent): void {
    const { caller, decided } = event;
    if (caller.kind === "unknown" || event.route === "whoami") return;
    if (caller.kind === "owner" && caller.owner.uid === 0) return;
    const nowMs = this.#now();
    const [share, subject] = [shareOf(caller), subjectOf(caller)];
    const user = decided?.identity.user ?? null;
    let row = this.#users.get(share);
    // The uid of an account that was deleted, given to another: who sees this row is the other one.
    const isAnothers = user !== null && row !== undefined && row.user !== null && row.user !== user;
    if (isAnothers) this.#users.delete(share);
    if (row === undefined || isAnothers) {
      this.#makeRoom(caller.kind === "container");
      row = { share, subject, firstMs: nowMs, lastMs: nowMs, requests: 0, v1: 0, v2: 0, ...NOTHING_ASKED };
      this.#users.set(share, row);
    }
    row.subject = subject;
    row.lastMs = nowMs;
    row.requests++;
    if (event.imdsVersion === 1) row.v1++;
    else row.v2++;
    if (decided !== null) row.user = decided.identity.user;
    const outcome = outcomeOf(event);
    if (outcome === null) return;
    row.outcome = outcome;
    const decision = decided?.decision.kind === "role" ? decided.decision : null;
    row.role = decision?.roleArn ?? null;
    row.grants = decision?.grants ?? null;
    row.why = event.why ?? null;
  }

  /** The users of the last four hours, the most recent first. */
  list(): readonly SeenUser[] {
    const sinceMs = this.#now() - SEEN_MS;
    for (const [share, { lastMs }] of this.#users) if (lastMs < sinceMs) this.#users.delete(share);
    return [...this.#users.values()].sort((a, b) => b.lastMs - a.lastMs);
  }

  /** One user; null where they have not asked. */
  of(share: Subject): SeenUser | null {
    const row = this.#users.get(share);
    return row === undefined || row.lastMs < this.#now() - SEEN_MS ? null : row;
  }

  /** Evicts the row whose last request is the oldest, where there is no room for another row. */
  #makeRoom(forContainer: boolean): void {
    const rows = [...this.#users.values()];
    const containers = rows.filter(({ subject }) => typeof subject === "string");
    const candidates = forContainer && containers.length >= MAX_CONTAINERS ? containers : rows;
    if (candidates === rows && rows.length < MAX_USERS) return;
    const oldest = candidates.reduce((a, b) => (b.lastMs < a.lastMs ? b : a));
    this.#users.delete(oldest.share);
  }
}

const NOTHING_ASKED = { user: null, outcome: "metadata", role: null, grants: null, why: null } as const;

/** Null where the request says nothing of what its user gets. */
function outcomeOf({ accessKeyId, failure, refusal }: RequestEvent): SeenOutcome | null {
  if (accessKeyId !== null) return "credentials";
  if (failure !== null) return failure.kind;
  if (refusal === "rule" || refusal === "identity") return "refused";
  return refusal === "unavailable" ? "unavailable" : null;
}
