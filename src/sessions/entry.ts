import type { Subject } from "../identity/caller.ts";
import type { Alarm } from "../platform/alarms.ts";
import type { Clock } from "../platform/clock.ts";
import type { Turn } from "./calls.ts";
import { type Life, standing } from "./life.ts";
import type { Session, SessionRequest } from "./types.ts";

/** A session in memory, and the alarm that removes it at its published end. */
export interface Held {
  readonly session: Session;
  readonly life: Life;
  /** When it was obtained, by {@link Clock.bootMs}. */
  readonly obtainedBootMs: number;
  readonly end: Alarm<Entry>;
}

/** What the broker knows of one request. Times are milliseconds; of `beganAtMs` since the epoch, else of the monotonic clock. */
export interface Entry {
  readonly key: string;
  readonly request: SessionRequest;
  readonly owner: Subject;
  held: Held | null;
  /** The remembered denial. `brief`: it is that of an early start, which nobody had asked for, and is dropped soon. */
  denial: { readonly message: string; readonly brief: boolean; readonly over: Alarm<Entry> } | null;
  /** The next attempt after a transient failure. */
  retry: { readonly dueAtMs: number; readonly alarm: Alarm<Entry> } | null;
  /** The next refresh. */
  refresh: Alarm<Entry> | null;
  /** The refresh was due, but nobody had asked since the last one. */
  refreshMissed: boolean;
  /** Somebody asked since the last refresh began. */
  asked: boolean;
  inFlight: boolean;
  /** The turn for which the attempt in flight still waits, so that STS was not called yet; else null. */
  turn: Turn | null;
  /** Whether the call that `retry` schedules has taken its rate-limit token already. */
  granted: boolean;
  /** When the last attempt began. */
  beganAtMs: number;
  /** Transient failures in a row. */
  failures: number;
  failure: string | null;
  /** When the rate limit will allow the call; null where the rate limit is not why there is no session. */
  putOffUntilMs: number | null;
  unaskedAttempts: number;
  /** Called when an attempt has succeeded or failed; null where nobody waits. */
  waiters: Set<() => void> | null;
}

/** The entry of a request that somebody asks for the first time. */
export function newEntry(key: string, request: SessionRequest, owner: Subject): Entry {
  return {
    key,
    request,
    owner,
    held: null,
    denial: null,
    retry: null,
    refresh: null,
    refreshMissed: false,
    asked: true,
    inFlight: false,
    turn: null,
    granted: false,
    beganAtMs: 0,
    failures: 0,
    failure: null,
    putOffUntilMs: null,
    unaskedAttempts: 0,
    waiters: null,
  };
}

/** How the session in memory stands, as {@link standing} says; `ended` as well where there is none. */
export function standingOf(entry: Entry, clock: Clock, nowMs = clock.now()): "fresh" | "low" | "ended" {
  if (entry.held === null) return "ended";
  const { life, obtainedBootMs } = entry.held;
  if (clock.bootMs() - obtainedBootMs >= life.publishedLifeMs) return "ended";
  return standing(life, nowMs);
}
