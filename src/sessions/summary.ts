import type { Subject } from "../identity/caller.ts";
import type { Clock } from "../platform/clock.ts";
import { type Entry, standingOf } from "./entry.ts";
import { expiryToPublish } from "./life.ts";

/** What is in memory, in numbers: for the metrics and for `imdsproxy status`. */

/**
 * The state of a remembered request.
 * - `fresh`: its session is served. `low`: it is served while a better one is tried for.
 * - `denied`: STS refused, and there is no session. `failed`: the last attempt failed, and there is no session.
 * - `pending`: there is no session yet.
 */
export type SessionState = "fresh" | "low" | "pending" | "denied" | "failed";

/** The counts of the broker, for metrics. */
export interface BrokerCounts {
  /** Sessions in memory that have not expired. */
  readonly sessions: number;
  /** Requests remembered, denials and failures included. */
  readonly entries: number;
  /** AssumeRole calls in flight. */
  readonly inFlight: number;
  /** The remembered requests by state. */
  readonly states: Readonly<Record<SessionState, number>>;
  /** By role, the milliseconds until the first of its sessions ends. */
  readonly leastLifeMs: ReadonlyMap<string, number>;
}

/** The sessions of one role, for `imdsproxy status`. */
export interface RoleSessions {
  readonly role: string;
  /** Sessions that are valid now. */
  readonly sessions: number;
  /** When the first of them ends, as clients see it, in milliseconds since the epoch; null where there is none. */
  readonly firstEndMs: number | null;
  /** Of these sessions, those that STS did not renew when it was asked last. */
  readonly notRenewed: number;
  /** Requests without a session, counted as in BrokerCounts.states: STS denied them, or their last attempt failed. */
  readonly denied: number;
  readonly failing: number;
}

/** Counts the sessions among these entries. */
export function countSessions(
  entries: Iterable<Entry>,
  clock: Clock,
): Pick<BrokerCounts, "sessions" | "states" | "leastLifeMs"> {
  const nowMs = clock.now();
  const states = { fresh: 0, low: 0, pending: 0, denied: 0, failed: 0 };
  const leastLifeMs = new Map<string, number>();
  let sessions = 0;
  for (const entry of entries) {
    const state = stateOf(entry, clock);
    states[state]++;
    if (entry.held === null || (state !== "fresh" && state !== "low")) continue;
    sessions++;
    const { roleArn } = entry.request;
    const leftMs = Math.max(0, expiryToPublish(entry.held.life, nowMs) - nowMs);
    leastLifeMs.set(roleArn, Math.min(leftMs, leastLifeMs.get(roleArn) ?? leftMs));
  }
  return { sessions, states, leastLifeMs };
}

/**
 * What is in memory for each role, by the role's name.
 *
 * @param owner counts the entries of this owner alone; null counts all.
 */
export function sessionsByRole(
  entries: Iterable<Entry>,
  clock: Clock,
  owner: Subject | null,
): readonly RoleSessions[] {
  const nowMs = clock.now();
  const roles = new Map<string, { -readonly [Key in keyof RoleSessions]: RoleSessions[Key] }>();
  for (const entry of entries) {
    if (owner !== null && entry.owner !== owner) continue;
    const { roleArn: role } = entry.request;
    const found = roles.get(role) ?? {
      ...{ role, sessions: 0, firstEndMs: null },
      ...{ notRenewed: 0, denied: 0, failing: 0 },
    };
    roles.set(role, found);
    const state = stateOf(entry, clock);
    if (state === "denied") found.denied++;
    if (state === "failed") found.failing++;
    if (entry.held === null || (state !== "fresh" && state !== "low")) continue;
    found.sessions++;
    if (entry.denial !== null || entry.failures > 0) found.notRenewed++;
    const endMs = expiryToPublish(entry.held.life, nowMs);
    found.firstEndMs = Math.min(found.firstEndMs ?? endMs, endMs);
  }
  return [...roles.values()].sort((a, b) => (a.role < b.role ? -1 : 1));
}

function stateOf(entry: Entry, clock: Clock): SessionState {
  const held = standingOf(entry, clock);
  if (held !== "ended") return held;
  if (entry.denial !== null) return "denied";
  return entry.failures > 0 ? "failed" : "pending";
}
