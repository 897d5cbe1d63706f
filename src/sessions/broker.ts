import type { Subject } from "../identity/caller.ts";
import { Alarms } from "../platform/alarms.ts";
import type { Clock } from "../platform/clock.ts";
import type { CallAllowance } from "./allowance.ts";
import { type Sts, StsCalls } from "./calls.ts";
import { EarlyStarts } from "./early-starts.ts";
import { Entries } from "./entries.ts";
import { type Entry, type Held, newEntry, standingOf } from "./entry.ts";
import type { AttemptReason, SessionEvent } from "./events.ts";
import { failureOf, StsFailure } from "./failure.ts";
import { sessionKey } from "./key.ts";
import {
  DENIAL_MS,
  EARLY_DENIAL_MS,
  expiryToPublish,
  lifeOf,
  PUBLISH_EARLY_MS,
  refreshDelayMs,
  retryDelayMs,
} from "./life.ts";
import { type BrokerCounts, countSessions, type RoleSessions, sessionsByRole } from "./summary.ts";
import type { Session, SessionOutcome, SessionRequest } from "./types.ts";

/** An attempt under way at the first session of a request. */
export interface FirstAttempt {
  /** Milliseconds since the epoch. */
  readonly beganAtMs: number;
  /** Resolves when it has succeeded or failed, at most after `limitMs`; null where it has already. Never rejects. */
  wait(limitMs: number): Promise<void> | null;
}

export interface BrokerOptions {
  readonly sts: Sts;
  readonly clock: Clock;
  /** Milliseconds of the monotonic clock that the timers of `clock` follow. */
  readonly monotonicMs: () => number;
  /** A number in [0, 1), for jitter. */
  readonly random: () => number;
  readonly onEvent?: (event: SessionEvent) => void;
  /** Milliseconds that a caller waits for a first session. Default 3000; at most FAILING_WAIT_MS where the last attempt failed. */
  readonly waitMs?: number;
  /**
   * Milliseconds that a caller waits for a new session when one with little life left is in memory.
   * Default 400: Go's SDK gives the whole answer 500.
   */
  readonly betterWaitMs?: number;
  /** The time limit of an attempt in milliseconds, without its time in the queue. Default 10000. */
  readonly attemptMs?: number;
  /** AssumeRole calls in flight at once. Default 16; no owner has more than half of them. */
  readonly maxConcurrent?: number;
  /** Requests remembered at once. Default 8192, about 4 KiB each. */
  readonly maxEntries?: number;
  /** Of these, those of one owner. Default 256. */
  readonly maxEntriesPerOwner?: number;
  /** The rate limit of STS calls. Default: none. */
  readonly allowance?: CallAllowance;
}

/** How many retries follow transient failures when no caller asks any more and there is no session to renew. */
const UNASKED_ATTEMPTS = 8;

/**
 * Milliseconds that a caller without a session waits where the last attempt has failed. Most SDKs wait one second for an answer,
 * so the failure is reported within it, before their own time-out.
 */
const FAILING_WAIT_MS = 900;

/** A call that waits at the rate limit is hastened only where it comes by at least this much earlier. */
const LEAST_HASTE_MS = 100;

/** A refresh is postponed only where it can be postponed by at least this long. */
const LEAST_PUT_OFF_MS = 30_000;

/**
 * Keeps one session for each distinct AssumeRole request. Attempts are single-flight: at most one is under way for a request.
 * An attempt belongs to no caller. Callers wait for it for a limited time, and one who leaves does not cancel it.
 *
 * The wall clock decides whether a session is served, because its end is a date that clients compare with the same clock.
 * Timers, which a change of the wall clock does not move, decide when it is refreshed and when it is dropped. So no jump of the
 * clock makes a session live longer, and none prevents a refresh. When the clock jumps forward and back again, the session is
 * still there, because no date removes it. But timers stop while the machine is suspended, and the wall clock may be set back
 * afterwards. So a third clock, which counts the suspended time ({@link Clock.bootMs}), also ends a session whose life has passed.
 *
 * A denial does not end a valid session. It is logged, and STS is asked again each minute. AWS accepts the session
 * whether or not it is dropped here, and its owner may have it already; it ends within the half of its life that is left. Dropping it
 * early would protect nothing, since sessions are revoked by a policy on the role, and would let one minute's mistake in a
 * trust policy stop every job on the node.
 */
export class SessionBroker {
  readonly #clock: Clock;
  /** For what is measured from one moment to another in this process: a wall clock that is set back must hold up nobody. */
  readonly #monotonicMs: () => number;
  readonly #random: () => number;
  readonly #onEvent: (event: SessionEvent) => void;
  readonly #waitMs: number;
  readonly #betterWaitMs: number;
  readonly #calls: StsCalls;
  readonly #allowance: CallAllowance | null;
  readonly #earlyStarts = new EarlyStarts();
  readonly #entries: Entries;
  /** The alarms of all entries: ends, refreshes, retries. Each calls one of the methods below. */
  readonly #alarms: Alarms<Entry>;
  readonly #onEnd = (entry: Entry): void => this.#end(entry);
  readonly #onRefresh = (entry: Entry): void => this.#refreshDue(entry);
  readonly #onRetry = (entry: Entry): void => this.#retryDue(entry);
  readonly #onDenialOver = (entry: Entry): void => this.#denialOver(entry);
  readonly #onGranted = (entry: Entry): void => {
    entry.retry = null;
    this.#attempt(entry, "asked");
  };
  #stopped = false;

  constructor(options: BrokerOptions) {
    this.#clock = options.clock;
    this.#monotonicMs = options.monotonicMs;
    this.#alarms = new Alarms({ clock: options.clock, monotonicMs: options.monotonicMs });
    this.#random = options.random;
    this.#onEvent = options.onEvent ?? (() => {});
    this.#waitMs = options.waitMs ?? 3_000;
    this.#betterWaitMs = options.betterWaitMs ?? 400;
    this.#calls = new StsCalls({
      sts: options.sts,
      clock: options.clock,
      random: options.random,
      attemptMs: options.attemptMs ?? 10_000,
      maxConcurrent: options.maxConcurrent ?? 16,
    });
    this.#allowance = options.allowance ?? null;
    this.#entries = new Entries(options.maxEntries ?? 8_192, options.maxEntriesPerOwner ?? 256);
  }

  /**
   * The session for this request, from memory or from STS. Resolves within `waitMs`; never rejects.
   *
   * @param owner whose limits the entry and the attempt count towards. Default: the session name.
   */
  async get(request: SessionRequest, owner: Subject = request.sessionName): Promise<SessionOutcome> {
    if (this.#stopped) return unavailable("imdsproxy is stopping");
    const entry = this.#entryFor(request, owner);
    if (entry === null) return unavailable("too many sessions are asked for at once; try again shortly");

    const held = this.#asked(entry, owner);
    if (held === "fresh") return this.#answer(entry);
    // The rate limit refused the call, so there is nothing to wait for.
    if (!entry.inFlight && entry.retry === null && entry.denial === null) return this.#answer(entry);
    // STS does not give a new session now, so the valid one is served at once.
    if (held === "low" && (entry.denial !== null || entry.failures > 0)) return this.#answer(entry);
    if (entry.denial !== null) return this.#answer(entry);

    const waitMs = entry.failures > 0 ? Math.min(this.#waitMs, FAILING_WAIT_MS) : this.#waitMs;
    const limitMs = held === "low" ? this.#betterWaitMs : waitMs;
    if (entry.turn !== null && this.#calls.turnInMs(owner) >= limitMs) return this.#answer(entry);
    const dueInMs = entry.retry === null ? 0 : entry.retry.dueAtMs - this.#monotonicMs();
    if (dueInMs < limitMs) await this.#settle(entry, limitMs);
    return this.#answer(entry);
  }

  /**
   * Like `get`, without waiting: the session where a fresh one is in memory, else null. Most requests are answered this way, and
   * are spared a promise.
   *
   * @param nowMs what the clock says now.
   */
  getAtHand(request: SessionRequest, nowMs = this.#clock.now()): SessionOutcome | null {
    const entry = this.#stopped ? undefined : this.#entries.get(sessionKey(request));
    // Looked at once: to read the clock that counts the machine's sleep costs more than all else here.
    if (entry === undefined || this.#standing(entry, nowMs) !== "fresh" || entry.held === null) return null;
    this.#entries.touch(entry);
    this.#asked(entry, entry.owner, "fresh");
    return sessionOf(entry.held, nowMs);
  }

  /**
   * Begins an attempt for a request that is expected to follow, and does not wait for it.
   *
   * @returns the attempt, where it is the first one and under way; null where there is nothing to wait for: a session is
   *   at hand, the request was denied, or the attempt before this one failed.
   */
  prepare(request: SessionRequest, owner: Subject = request.sessionName): FirstAttempt | null {
    const entry = this.#stopped ? null : this.#entryFor(request, owner);
    if (entry === null) return null;
    this.#asked(entry, owner);
    return this.#first(entry);
  }

  /**
   * The early start: like `prepare`, for a request that may never follow. It is made at most once in a session's life, not
   * retried where it fails, and the session is not refreshed until somebody has asked for it.
   *
   * @param leave the share of the node's calls, 0 to 1, that is reserved for callers who ask. Default 0.
   */
  prepareEarly(
    request: SessionRequest,
    owner: Subject = request.sessionName,
    leave = 0,
  ): FirstAttempt | null {
    if (this.#stopped) return null;
    const key = sessionKey(request);
    const known = this.#entries.get(key);
    if (known !== undefined) return this.#first(known);
    const lifeMs = request.durationSeconds * 1000 - PUBLISH_EARLY_MS;
    const nowMs = this.#clock.now();
    // While calls are paced, the few that STS accepts are for callers who ask.
    if (this.#calls.isPaced(nowMs)) return null;
    // It takes no token from the owner's bucket, which is for the requests that the owner makes.
    if (this.#allowance?.hasForNode(this.#monotonicMs(), leave) === false) return null;
    if (!this.#earlyStarts.take(key, owner, lifeMs, nowMs)) return null;
    this.#allowance?.countForNode(this.#monotonicMs());
    const entry = this.#entryFor(request, owner);
    if (entry === null) return null;
    entry.asked = false;
    entry.unaskedAttempts = UNASKED_ATTEMPTS;
    this.#attempt(entry, "early");
    return this.#first(entry);
  }

  /** The published expiry of this request's session; null where none is valid. Makes no attempt. */
  peek(request: SessionRequest): number | null {
    const entry = this.#entries.get(sessionKey(request));
    const outcome = entry === undefined ? null : this.#answer(entry);
    return outcome?.kind === "session" ? outcome.publishedExpiryMs : null;
  }

  /**
   * Removes the entry of a request whose session nobody may have any more. An attempt under way is not waited for, and its result
   * is discarded. Callers who wait get the outcome `unavailable`.
   */
  forget(request: SessionRequest, reason: "job-ended" | "withdrawn"): void {
    const entry = this.#entries.get(sessionKey(request));
    if (entry === undefined) return;
    const accessKeyId = entry.held?.session.accessKeyId ?? null;
    entry.failure = "this session was withdrawn; ask again";
    this.#remove(entry);
    this.#settled(entry);
    this.#emit({ type: "dropped", request: entry.request, reason, accessKeyId });
  }

  counts(): BrokerCounts {
    const counted = countSessions(this.#entries.all(), this.#clock);
    return { ...counted, entries: this.#entries.size, inFlight: this.#calls.inFlight };
  }

  /** As {@link sessionsByRole}. */
  byRole(owner: Subject | null = null): readonly RoleSessions[] {
    return sessionsByRole(this.#entries.all(), this.#clock, owner);
  }

  /** Aborts all attempts and drops all sessions. Callers who wait get the answer that the service stops. */
  stop(): void {
    this.#stopped = true;
    this.#calls.stop();
    for (const entry of [...this.#entries.all()]) {
      entry.failure = "imdsproxy is stopping";
      this.#remove(entry);
      this.#settled(entry);
    }
  }

  /**
   * Notes that a caller asks, and begins an attempt where one is due, or hastens the one that waits. Returns the standing of the session in
   * memory.
   */
  #asked(entry: Entry, owner: Subject, held = this.#standing(entry)): "fresh" | "low" | "ended" {
    entry.asked = true;
    entry.unaskedAttempts = 0;
    if (entry.denial?.brief === true) {
      this.#alarms.cancel(entry.denial.over);
      // Now that somebody asks, it is kept longer. However late in its five seconds, it ends at most a minute after STS denied.
      this.#deny(entry, entry.denial.message, DENIAL_MS - EARLY_DENIAL_MS, false);
    }
    if (held !== "fresh") {
      this.#attempt(entry, "asked", owner);
      this.#hasten(entry, owner);
    } else if (entry.refreshMissed) this.#attempt(entry, "refresh");
    return held;
  }

  #first(entry: Entry): FirstAttempt | null {
    const isFirst = () =>
      entry.inFlight && entry.held === null && entry.denial === null && entry.failures === 0;
    if (!isFirst()) return null;
    return {
      beganAtMs: entry.beganAtMs,
      wait: (limitMs) => (isFirst() ? this.#settle(entry, limitMs) : null),
    };
  }

  #standing(entry: Entry, nowMs = this.#clock.now()): "fresh" | "low" | "ended" {
    return standingOf(entry, this.#clock, nowMs);
  }

  #answer(entry: Entry, nowMs = this.#clock.now()): SessionOutcome {
    const { held, denial } = entry;
    if (held !== null && this.#standing(entry, nowMs) !== "ended") return sessionOf(held, nowMs);
    if (denial !== null) return { kind: "denied", message: denial.message };
    const message = entry.failure ?? "STS has not answered yet; try again shortly";
    if (entry.putOffUntilMs === null) return unavailable(message);
    return { ...unavailable(message), retryAfterMs: Math.max(0, entry.putOffUntilMs - this.#monotonicMs()) };
  }

  /** Waits until an attempt at this entry has ended, at most `limitMs`. */
  #settle(entry: Entry, limitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const leave = () => {
        cancel();
        if (entry.waiters?.delete(leave) === true && entry.waiters.size === 0) entry.waiters = null;
        resolve();
      };
      const cancel = this.#clock.schedule(limitMs, leave);
      entry.waiters ??= new Set();
      entry.waiters.add(leave);
    });
  }

  #settled(entry: Entry): void {
    for (const leave of [...(entry.waiters ?? [])]) leave();
  }

  /**
   * Several owners may share a session. Nobody waits for it behind what only the one who asked first has asked for: neither in the queue
   * of calls nor at the rate limit.
   */
  #hasten(entry: Entry, owner: Subject): void {
    entry.turn?.join(owner);
    if (!entry.granted || entry.retry === null || this.#allowance === null) return;
    const nowMs = this.#monotonicMs();
    const leftMs = entry.retry.dueAtMs - nowMs;
    if (leftMs <= LEAST_HASTE_MS) return;
    const { granted, waitMs } = this.#allowance.ask(owner, nowMs, leftMs - LEAST_HASTE_MS);
    if (!granted) return;
    this.#alarms.cancel(entry.retry.alarm);
    this.#grant(entry, waitMs);
  }

  /** Schedules the call that the rate limit allows in so many milliseconds. */
  #grant(entry: Entry, waitMs: number): void {
    entry.granted = true;
    entry.putOffUntilMs = this.#monotonicMs() + waitMs;
    entry.retry = { dueAtMs: entry.putOffUntilMs, alarm: this.#alarms.set(waitMs, this.#onGranted, entry) };
  }

  /**
   * Begins an attempt, unless one is under way or scheduled, or a denial is remembered.
   *
   * @param owner whose turn and whose rate limit it is; default the entry's.
   */
  #attempt(entry: Entry, reason: AttemptReason, owner: Subject = entry.owner): void {
    if (entry.inFlight || entry.retry !== null || entry.denial !== null || this.#stopped) return;
    // An early start has taken its token already.
    if (reason !== "early" && !this.#mayCall(entry, owner)) return;
    entry.inFlight = true;
    entry.putOffUntilMs = null;
    entry.beganAtMs = this.#clock.now();
    entry.refreshMissed = false;
    this.#cancelRefresh(entry);
    if (reason === "refresh") entry.asked = false;
    void this.#run(entry, reason, owner);
  }

  /**
   * Whether the rate limit allows a call now. Where it will allow one soon, the call is scheduled, and callers who ask in the
   * meantime wait for the same one.
   */
  #mayCall(entry: Entry, owner: Subject): boolean {
    const nowMs = this.#monotonicMs();
    if (this.#allowance === null) return true;
    if (entry.granted) {
      entry.granted = false;
      return true;
    }
    if (this.#standing(entry) !== "ended") {
      this.#allowance.count(owner, nowMs);
      return true;
    }
    const { granted, waitMs } = this.#allowance.ask(owner, nowMs);
    if (granted && waitMs === 0) return true;
    const seconds = Math.ceil(waitMs / 1000);
    entry.failure = `too many new sessions are asked for; try again in ${seconds} s`;
    entry.putOffUntilMs = nowMs + waitMs;
    if (granted) this.#grant(entry, waitMs);
    else this.#removeIfEmpty(entry);
    this.#emit({ type: "postponed", request: entry.request, owner, againInMs: waitMs });
    return false;
  }

  async #run(entry: Entry, reason: AttemptReason, owner: Subject): Promise<void> {
    entry.turn = this.#calls.turn(owner);
    const endTurn = await entry.turn.begun;
    entry.turn = null;
    // It was withdrawn while it waited. STS is not called for a session that nobody may have.
    if (!this.#keeps(entry)) {
      entry.inFlight = false;
      endTurn();
      return;
    }
    const startedAtMs = this.#clock.now();
    try {
      const session = await this.#calls.assumeRole(entry.request);
      if (this.#keeps(entry)) this.#accept(entry, session, reason, startedAtMs);
    } catch (error) {
      const failure = failureOf(error);
      this.#calls.failed(failure, startedAtMs);
      if (this.#keeps(entry)) this.#fail(entry, failure, reason, startedAtMs);
    } finally {
      entry.inFlight = false;
      endTurn();
      this.#settled(entry);
    }
  }

  /**
   * Postpones a refresh while STS throttles or is away and the session has more life left than the floor; returns whether it did.
   * The refresh then comes at a random moment before the floor: until then, the calls that STS accepts are for callers who have no
   * session, or one with little life left.
   */
  #putOff(entry: Entry, run: (entry: Entry) => void): boolean {
    const nowMs = this.#clock.now();
    if (entry.held === null || !this.#calls.isPaced(nowMs) || this.#standing(entry) !== "fresh") return false;
    const { life } = entry.held;
    const leftMs = expiryToPublish(life, nowMs) - nowMs - life.floorMs;
    if (leftMs < LEAST_PUT_OFF_MS) return false;
    entry.refresh = this.#alarms.set(leftMs * (0.25 + 0.75 * this.#random()), run, entry);
    return true;
  }

  /** Whether the entry is still in memory: `forget` may have removed it while an attempt was under way. */
  #keeps(entry: Entry): boolean {
    return !this.#stopped && this.#entries.get(entry.key) === entry;
  }

  #accept(entry: Entry, session: Session, reason: AttemptReason, startedAtMs: number): void {
    const nowMs = this.#clock.now();
    const life = lifeOf(session.expiresAtMs, entry.request.durationSeconds, nowMs);
    if (life === null) throw clockFailure(session.expiresAtMs, nowMs);
    const inTime = reason === "refresh" && this.#standing(entry) === "fresh";
    this.#forget(entry);
    entry.failures = 0;
    entry.failure = null;
    entry.held = {
      session,
      life,
      obtainedBootMs: this.#clock.bootMs(),
      end: this.#alarms.set(life.publishedLifeMs, this.#onEnd, entry),
    };
    const refreshInMs = refreshDelayMs(life, this.#random(), inTime);
    entry.refresh = this.#alarms.set(refreshInMs, this.#onRefresh, entry);
    this.#emit({
      type: "obtained",
      request: entry.request,
      reason,
      tookMs: nowMs - startedAtMs,
      accessKeyId: session.accessKeyId,
      expiresAtMs: session.expiresAtMs,
    });
  }

  #fail(entry: Entry, failure: StsFailure, reason: AttemptReason, startedAtMs: number): void {
    const nowMs = this.#clock.now();
    let againInMs = DENIAL_MS;
    if (failure.kind === "denied") {
      entry.failures = 0;
      entry.failure = null;
      const brief = reason === "early" && !entry.asked;
      againInMs = brief ? EARLY_DENIAL_MS : DENIAL_MS;
      this.#deny(entry, failure.message, againInMs, brief);
    } else {
      entry.failures++;
      entry.failure = failure.message;
      againInMs = retryDelayMs(entry.failures, failure.retryAfterMs, this.#random());
      entry.retry = {
        dueAtMs: this.#monotonicMs() + againInMs,
        alarm: this.#alarms.set(againInMs, this.#onRetry, entry),
      };
    }
    this.#emit({
      type: failure.kind === "denied" ? "denied" : "failed",
      request: entry.request,
      reason,
      tookMs: nowMs - startedAtMs,
      code: failure.code,
      message: failure.message,
      detail: failure.detail,
      againInMs,
      servingUntilMs: this.#standing(entry) === "ended" ? null : (entry.held?.life.publishedExpiryMs ?? null),
    });
  }

  #deny(entry: Entry, message: string, forMs: number, brief: boolean): void {
    entry.denial = { message, brief, over: this.#alarms.set(forMs, this.#onDenialOver, entry) };
  }

  #refreshDue(entry: Entry): void {
    entry.refresh = null;
    if (!entry.asked) entry.refreshMissed = true;
    else if (!this.#putOff(entry, this.#onRefresh)) this.#attempt(entry, "refresh");
  }

  #retryDue(entry: Entry): void {
    entry.retry = null;
    entry.refresh = null;
    if (this.#putOff(entry, this.#onRetry)) return;
    const wanted = entry.held !== null || ++entry.unaskedAttempts <= UNASKED_ATTEMPTS;
    if (wanted) this.#attempt(entry, "retry");
    else this.#removeIfEmpty(entry);
  }

  #denialOver(entry: Entry): void {
    entry.denial = null;
    if (entry.held !== null) this.#attempt(entry, "refresh");
    else this.#removeIfEmpty(entry);
  }

  #end(entry: Entry): void {
    const accessKeyId = entry.held?.session.accessKeyId ?? null;
    entry.held = null;
    this.#cancelRefresh(entry);
    entry.refreshMissed = false;
    this.#emit({ type: "dropped", request: entry.request, reason: "ended", accessKeyId });
    this.#removeIfEmpty(entry);
  }

  #emit(event: SessionEvent): void {
    try {
      this.#onEvent(event);
    } catch {
      // An error in the log or the metrics must not fail the session.
    }
  }

  /** The entry of this request, which becomes the most recently used; null where there is no room for it. */
  #entryFor(request: SessionRequest, owner: Subject): Entry | null {
    const key = sessionKey(request);
    const known = this.#entries.get(key);
    if (known !== undefined) {
      this.#entries.touch(known);
      return known;
    }
    if (!this.#makeRoomFor(owner)) return null;
    const entry = newEntry(key, request, owner);
    this.#entries.add(entry);
    return entry;
  }

  #makeRoomFor(owner: Subject): boolean {
    const evicted = this.#entries.crowdedOut(owner);
    if (typeof evicted === "string") return evicted === "room";
    const accessKeyId = evicted.held?.session.accessKeyId ?? null;
    this.#remove(evicted);
    this.#emit({ type: "dropped", request: evicted.request, reason: "crowded", accessKeyId });
    return true;
  }

  #removeIfEmpty(entry: Entry): void {
    const busy = entry.inFlight || entry.waiters !== null;
    if (!busy && entry.held === null && entry.denial === null && entry.retry === null) this.#remove(entry);
  }

  #remove(entry: Entry): void {
    this.#forget(entry);
    this.#entries.remove(entry);
  }

  /** Clears an entry: its session, its denial and its alarms. */
  #forget(entry: Entry): void {
    if (entry.held !== null) this.#alarms.cancel(entry.held.end);
    entry.held = null;
    if (entry.denial !== null) this.#alarms.cancel(entry.denial.over);
    entry.denial = null;
    if (entry.retry !== null) this.#alarms.cancel(entry.retry.alarm);
    entry.retry = null;
    entry.granted = false;
    this.#cancelRefresh(entry);
    entry.refreshMissed = false;
  }

  #cancelRefresh(entry: Entry): void {
    if (entry.refresh !== null) this.#alarms.cancel(entry.refresh);
    entry.refresh = null;
  }
}

/** The outcome that gives a session which has not ended. */
const sessionOf = ({ session, life }: Held, nowMs: number): SessionOutcome => ({
  kind: "session",
  session,
  publishedExpiryMs: expiryToPublish(life, nowMs),
});

function unavailable(message: string): SessionOutcome & { readonly kind: "unavailable" } {
  return { kind: "unavailable", message };
}

function clockFailure(expiresAtMs: number, nowMs: number): StsFailure {
  const iso = (ms: number) => (Number.isFinite(ms) ? new Date(ms).toISOString() : "no date");
  return new StsFailure({
    kind: "transient",
    code: "clock",
    message: "the session that STS gave has expired already by this node's clock",
    detail: `the session that STS gave ends at ${iso(expiresAtMs)}, and this node's clock says ${iso(nowMs)}: set the clock (chronyc tracking)`,
  });
}
