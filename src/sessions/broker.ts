import type { Subject } from "../identity/caller.ts";
import { type Alarm, Alarms } from "../platform/alarms.ts";
import type { Clock } from "../platform/clock.ts";
import { FairSlots } from "../platform/fair-slots.ts";
import type { CallAllowance } from "./allowance.ts";
import { EarlyStarts } from "./early-starts.ts";
import { StsFailure } from "./failure.ts";
import { sessionKey } from "./key.ts";
import {
  DENIAL_MS,
  EARLY_DENIAL_MS,
  expiryToPublish,
  type Life,
  lifeOf,
  PUBLISH_EARLY_MS,
  refreshDelayMs,
  retryDelayMs,
  standing,
} from "./life.ts";
import { StsPace } from "./pace.ts";
import { isThrottlingCode } from "./sts-failures.ts";
import type { Session, SessionOutcome, SessionRequest } from "./types.ts";

/** What the broker needs of STS. src/sessions/sts.ts implements it. */
export interface Sts {
  /**
   * One attempt, without retries of its own: the broker retries.
   *
   * @param signal aborted when the broker gives up the attempt.
   * @throws StsFailure. Any other error counts as a transient failure, and its text is not shown.
   */
  assumeRole(request: SessionRequest, signal: AbortSignal): Promise<Session>;
}

/**
 * Why an attempt was made: a caller asked for the session (`asked`) or is expected to (`early`), half of its life was over, or
 * the last attempt failed.
 */
export type AttemptReason = "asked" | "early" | "refresh" | "retry";

/** An attempt under way at the first session of a request. */
export interface FirstAttempt {
  /** Milliseconds since the epoch. */
  readonly beganAtMs: number;
  /** Resolves when it has succeeded or failed, at most after `limitMs`; null where it has already. Never rejects. */
  wait(limitMs: number): Promise<void> | null;
}

/** An event for the log and the metrics. Holds no secret. Times are milliseconds. */
export type SessionEvent =
  | {
      readonly type: "obtained";
      readonly request: SessionRequest;
      readonly reason: AttemptReason;
      readonly tookMs: number;
      /** Names the session in CloudTrail; not a secret. */
      readonly accessKeyId: string;
      readonly expiresAtMs: number;
    }
  | {
      readonly type: "denied" | "failed";
      readonly request: SessionRequest;
      readonly reason: AttemptReason;
      readonly tookMs: number;
      /** StsFailure's code. */
      readonly code: string;
      /** StsFailure's message: may be told to the caller. */
      readonly message: string;
      /** StsFailure's detail: for the log, not for the caller. */
      readonly detail: string;
      /** Until the next attempt, or until one is allowed again. */
      readonly againInMs: number;
      /** The end of the session that is served meanwhile; null where there is none. */
      readonly servingUntilMs: number | null;
    }
  | {
      readonly type: "dropped";
      readonly request: SessionRequest;
      /**
       * `ended`: it expired. `crowded`: it was evicted for another. `job-ended`: it was a Slurm job's, which is over. `withdrawn`:
       * the rules give it to nobody any more.
       */
      readonly reason: "ended" | "crowded" | "job-ended" | "withdrawn";
      /** Names the session in CloudTrail; null where there was none in memory. */
      readonly accessKeyId: string | null;
    }
  /** A call that is delayed or refused, because its user or the node exceeds the rate limit. */
  | {
      readonly type: "postponed";
      readonly request: SessionRequest;
      readonly owner: Subject;
      /** Until the call is made, or may be tried again. */
      readonly againInMs: number;
    };

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

/**
 * The state of a remembered request.
 * - `fresh`: its session is served. `low`: it is served while a better one is tried for.
 * - `denied`: STS refused, and there is no session. `failed`: the last attempt failed, and there is no session.
 * - `pending`: there is no session yet.
 */
export type SessionState = "fresh" | "low" | "pending" | "denied" | "failed";

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

/** A refresh is postponed only where it can be postponed by at least this long. */
const LEAST_PUT_OFF_MS = 30_000;

/** A session in memory, and the alarm that removes it at its published end. */
interface Held {
  readonly session: Session;
  readonly life: Life;
  /** When it was obtained, by {@link Clock.bootMs}. */
  readonly obtainedBootMs: number;
  readonly end: Alarm<Entry>;
}

/** The state of one request. */
interface Entry {
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
  /** Whether the attempt in flight still waits for its turn, so that STS was not called yet. */
  queued: boolean;
  /** Whether the call that `retry` schedules has taken its rate-limit token already. */
  granted: boolean;
  /** When the last attempt began, milliseconds since the epoch. */
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
  readonly #sts: Sts;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #onEvent: (event: SessionEvent) => void;
  readonly #waitMs: number;
  readonly #betterWaitMs: number;
  readonly #attemptMs: number;
  readonly #maxEntries: number;
  readonly #maxEntriesPerOwner: number;
  readonly #slots: FairSlots<Subject>;
  readonly #pace: StsPace;
  readonly #allowance: CallAllowance | null;
  readonly #earlyStarts = new EarlyStarts();
  /** In LRU order: the least recently used entry is the first. */
  readonly #entries = new Map<string, Entry>();
  /** The most recently used entry; null where it was removed. */
  #newest: Entry | null = null;
  readonly #entriesOf = new Map<Subject, number>();
  readonly #attempts = new Set<AbortController>();
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
    this.#sts = options.sts;
    this.#clock = options.clock;
    this.#alarms = new Alarms({ clock: options.clock, monotonicMs: options.monotonicMs });
    this.#random = options.random;
    this.#onEvent = options.onEvent ?? (() => {});
    this.#waitMs = options.waitMs ?? 3_000;
    this.#betterWaitMs = options.betterWaitMs ?? 400;
    this.#attemptMs = options.attemptMs ?? 10_000;
    this.#maxEntries = options.maxEntries ?? 8_192;
    this.#maxEntriesPerOwner = options.maxEntriesPerOwner ?? 256;
    const pace = new StsPace(this.#random);
    this.#pace = pace;
    const maxConcurrent = options.maxConcurrent ?? 16;
    this.#slots = new FairSlots<Subject>(maxConcurrent, Math.ceil(maxConcurrent / 2), {
      waitMs: () => pace.waitMs(options.clock.now()),
      passed: () => pace.called(options.clock.now()),
      schedule: (delayMs, run) => options.clock.schedule(delayMs, run),
    });
    this.#allowance = options.allowance ?? null;
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

    const held = this.#asked(entry);
    if (held === "fresh") return this.#answer(entry);
    // The rate limit refused the call, so there is nothing to wait for.
    if (!entry.inFlight && entry.retry === null && entry.denial === null) return this.#answer(entry);
    // STS does not give a new session now, so the valid one is served at once.
    if (held === "low" && (entry.denial !== null || entry.failures > 0)) return this.#answer(entry);
    if (entry.denial !== null) return this.#answer(entry);

    const waitMs = entry.failures > 0 ? Math.min(this.#waitMs, FAILING_WAIT_MS) : this.#waitMs;
    const limitMs = held === "low" ? this.#betterWaitMs : waitMs;
    if (entry.queued && this.#turnInMs(entry.owner) >= limitMs) return this.#answer(entry);
    const dueInMs = entry.retry === null ? 0 : entry.retry.dueAtMs - this.#clock.now();
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
    this.#touch(entry);
    this.#asked(entry, "fresh");
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
    this.#asked(entry);
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
    if (this.#pace.distanceMs(nowMs) > 0) return null;
    // It takes no token from the owner's bucket, which is for the requests that the owner makes.
    if (this.#allowance?.hasForNode(nowMs, leave) === false) return null;
    if (!this.#earlyStarts.take(key, owner, lifeMs, nowMs)) return null;
    this.#allowance?.countForNode(nowMs);
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
    const nowMs = this.#clock.now();
    const states = { fresh: 0, low: 0, pending: 0, denied: 0, failed: 0 };
    const leastLifeMs = new Map<string, number>();
    let sessions = 0;
    for (const entry of this.#entries.values()) {
      const state = this.#stateOf(entry);
      states[state]++;
      if (entry.held === null || (state !== "fresh" && state !== "low")) continue;
      sessions++;
      const { roleArn } = entry.request;
      const leftMs = Math.max(0, expiryToPublish(entry.held.life, nowMs) - nowMs);
      leastLifeMs.set(roleArn, Math.min(leftMs, leastLifeMs.get(roleArn) ?? leftMs));
    }
    return { sessions, entries: this.#entries.size, inFlight: this.#slots.inUse, states, leastLifeMs };
  }

  #stateOf(entry: Entry): SessionState {
    const held = this.#standing(entry);
    if (held !== "ended") return held;
    if (entry.denial !== null) return "denied";
    return entry.failures > 0 ? "failed" : "pending";
  }

  /**
   * What is in memory for each role, by the role's name.
   *
   * @param owner counts the entries of this owner alone; null counts all.
   */
  byRole(owner: Subject | null = null): readonly RoleSessions[] {
    const nowMs = this.#clock.now();
    const roles = new Map<string, { -readonly [Key in keyof RoleSessions]: RoleSessions[Key] }>();
    for (const entry of this.#entries.values()) {
      if (owner !== null && entry.owner !== owner) continue;
      const { roleArn: role } = entry.request;
      const found = roles.get(role) ?? {
        ...{ role, sessions: 0, firstEndMs: null },
        ...{ notRenewed: 0, denied: 0, failing: 0 },
      };
      roles.set(role, found);
      const state = this.#stateOf(entry);
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

  /** Aborts all attempts and drops all sessions. Callers who wait get the answer that the service stops. */
  stop(): void {
    this.#stopped = true;
    this.#slots.removeGate();
    for (const attempt of this.#attempts) attempt.abort();
    for (const entry of [...this.#entries.values()]) {
      entry.failure = "imdsproxy is stopping";
      this.#remove(entry);
      this.#settled(entry);
    }
  }

  /** Notes that a caller asks, and begins an attempt where one is due. Returns the standing of the session in memory. */
  #asked(entry: Entry, held = this.#standing(entry)): "fresh" | "low" | "ended" {
    entry.asked = true;
    entry.unaskedAttempts = 0;
    if (entry.denial?.brief === true) {
      this.#alarms.cancel(entry.denial.over);
      // Now that somebody asks, it is kept longer. However late in its five seconds, it ends at most a minute after STS denied.
      this.#deny(entry, entry.denial.message, DENIAL_MS - EARLY_DENIAL_MS, false);
    }
    if (held !== "fresh") this.#attempt(entry, "asked");
    else if (entry.refreshMissed) this.#attempt(entry, "refresh");
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
    if (entry.held === null) return "ended";
    const { life, obtainedBootMs } = entry.held;
    if (this.#clock.bootMs() - obtainedBootMs >= life.publishedLifeMs) return "ended";
    return standing(life, nowMs);
  }

  #answer(entry: Entry, nowMs = this.#clock.now()): SessionOutcome {
    const { held, denial } = entry;
    if (held !== null && this.#standing(entry, nowMs) !== "ended") return sessionOf(held, nowMs);
    if (denial !== null) return { kind: "denied", message: denial.message };
    const message = entry.failure ?? "STS has not answered yet; try again shortly";
    if (entry.putOffUntilMs === null) return unavailable(message);
    return { ...unavailable(message), retryAfterMs: Math.max(0, entry.putOffUntilMs - nowMs) };
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

  /** Begins an attempt, unless one is under way or scheduled, or a denial is remembered. */
  #attempt(entry: Entry, reason: AttemptReason): void {
    if (entry.inFlight || entry.retry !== null || entry.denial !== null || this.#stopped) return;
    // An early start has taken its token already.
    if (reason !== "early" && !this.#mayCall(entry)) return;
    entry.inFlight = true;
    entry.putOffUntilMs = null;
    entry.beganAtMs = this.#clock.now();
    entry.refreshMissed = false;
    this.#cancelRefresh(entry);
    if (reason === "refresh") entry.asked = false;
    void this.#run(entry, reason);
  }

  /**
   * Whether the rate limit allows a call now. Where it will allow one soon, the call is scheduled, and callers who ask in the
   * meantime wait for the same one.
   */
  #mayCall(entry: Entry): boolean {
    const nowMs = this.#clock.now();
    if (this.#allowance === null) return true;
    if (entry.granted) {
      entry.granted = false;
      return true;
    }
    if (this.#standing(entry) !== "ended") {
      this.#allowance.count(entry.owner, nowMs);
      return true;
    }
    const { granted, waitMs } = this.#allowance.ask(entry.owner, nowMs);
    if (granted && waitMs === 0) return true;
    const seconds = Math.ceil(waitMs / 1000);
    entry.failure = `too many new sessions are asked for; try again in ${seconds} s`;
    entry.putOffUntilMs = nowMs + waitMs;
    if (granted) {
      entry.granted = true;
      entry.retry = {
        dueAtMs: nowMs + waitMs,
        alarm: this.#alarms.set(waitMs, this.#onGranted, entry),
      };
    } else this.#removeIfEmpty(entry);
    this.#emit({ type: "postponed", request: entry.request, owner: entry.owner, againInMs: waitMs });
    return false;
  }

  async #run(entry: Entry, reason: AttemptReason): Promise<void> {
    entry.queued = true;
    const release = await this.#slots.acquire(entry.owner);
    entry.queued = false;
    // It was withdrawn while it waited. STS is not called for a session that nobody may have.
    if (!this.#keeps(entry)) {
      entry.inFlight = false;
      release();
      return;
    }
    const startedAtMs = this.#clock.now();
    try {
      const session = await this.#assumeRole(entry.request);
      this.#pace.succeeded(this.#clock.now());
      if (this.#keeps(entry)) this.#accept(entry, session, reason, startedAtMs);
    } catch (error) {
      const failure = asFailure(error);
      this.#slowDown(failure, startedAtMs);
      if (this.#keeps(entry)) this.#fail(entry, failure, reason, startedAtMs);
    } finally {
      entry.inFlight = false;
      release();
      this.#settled(entry);
    }
  }

  /** Reports a failure to the pace. A denial counts as a success: STS answered, and did not throttle. */
  #slowDown(failure: StsFailure, startedAtMs: number): void {
    const nowMs = this.#clock.now();
    if (failure.kind === "denied") this.#pace.succeeded(nowMs);
    else if (isThrottlingCode(failure.code)) this.#pace.throttled(startedAtMs, nowMs);
    else this.#pace.failed(nowMs);
  }

  /**
   * Estimates how long the last queued call of this owner waits for its turn, in milliseconds; 0 where calls are not paced. Turns are
   * round-robin between owners, so of another owner's queue at most as many calls count as this owner has queued.
   */
  #turnInMs(owner: Subject): number {
    const nowMs = this.#clock.now();
    const turns = this.#slots.turnsBefore(owner);
    return turns === null ? 0 : this.#pace.waitMs(nowMs) + this.#pace.distanceMs(nowMs) * turns;
  }

  /**
   * Postpones a refresh while STS throttles or is away and the session has more life left than the floor; returns whether it did.
   * The refresh then comes at a random moment before the floor: until then, the calls that STS accepts are for callers who have no
   * session, or one with little life left.
   */
  #putOff(entry: Entry, run: (entry: Entry) => void): boolean {
    const nowMs = this.#clock.now();
    if (entry.held === null || this.#pace.distanceMs(nowMs) === 0 || this.#standing(entry) !== "fresh")
      return false;
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

  /** One STS call with a time limit, which holds even if STS and the SDK do not answer. */
  async #assumeRole(request: SessionRequest): Promise<Session> {
    if (this.#stopped) throw unavailableSts("aborted", "imdsproxy is stopping");
    const attempt = new AbortController();
    const givenUp = Promise.withResolvers<never>();
    attempt.signal.addEventListener("abort", () =>
      givenUp.reject(unavailableSts("timeout", "STS did not answer in time; try again shortly")),
    );
    const cancel = this.#clock.schedule(this.#attemptMs, () => attempt.abort());
    this.#attempts.add(attempt);
    try {
      return await Promise.race([this.#sts.assumeRole(request, attempt.signal), givenUp.promise]);
    } finally {
      cancel();
      this.#attempts.delete(attempt);
    }
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
        dueAtMs: nowMs + againInMs,
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
      this.#touch(known);
      return known;
    }
    if (!this.#makePlaceFor(owner)) return null;
    const entry: Entry = {
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
      queued: false,
      granted: false,
      beganAtMs: 0,
      failures: 0,
      failure: null,
      putOffUntilMs: null,
      unaskedAttempts: 0,
      waiters: null,
    };
    this.#entries.set(key, entry);
    this.#newest = entry;
    this.#entriesOf.set(owner, (this.#entriesOf.get(owner) ?? 0) + 1);
    return entry;
  }

  /** Makes an entry the most recently used one. */
  #touch(entry: Entry): void {
    if (entry === this.#newest) return;
    this.#entries.delete(entry.key);
    this.#entries.set(entry.key, entry);
    this.#newest = entry;
  }

  /**
   * Evicts the least recently used entry: of this owner, where they exceed their limit; else, where all together exceed the
   * limit, of the owner who has most. So a user who asks for many sessions loses their own. An entry that a caller waits for
   * is not evicted.
   */
  #makePlaceFor(owner: Subject): boolean {
    if ((this.#entriesOf.get(owner) ?? 0) >= this.#maxEntriesPerOwner) {
      return this.#dropOldest((entry) => entry.owner === owner);
    }
    if (this.#entries.size < this.#maxEntries) return true;
    let most = 0;
    for (const count of this.#entriesOf.values()) most = Math.max(most, count);
    return this.#dropOldest((entry) => this.#entriesOf.get(entry.owner) === most);
  }

  #dropOldest(among: (entry: Entry) => boolean): boolean {
    for (const entry of this.#entries.values()) {
      if (entry.inFlight || entry.waiters !== null || !among(entry)) continue;
      const accessKeyId = entry.held?.session.accessKeyId ?? null;
      this.#remove(entry);
      this.#emit({ type: "dropped", request: entry.request, reason: "crowded", accessKeyId });
      return true;
    }
    return false;
  }

  #removeIfEmpty(entry: Entry): void {
    const busy = entry.inFlight || entry.waiters !== null;
    if (!busy && entry.held === null && entry.denial === null && entry.retry === null) this.#remove(entry);
  }

  #remove(entry: Entry): void {
    this.#forget(entry);
    if (entry === this.#newest) this.#newest = null;
    if (!this.#entries.delete(entry.key)) return;
    const left = (this.#entriesOf.get(entry.owner) ?? 0) - 1;
    if (left > 0) this.#entriesOf.set(entry.owner, left);
    else this.#entriesOf.delete(entry.owner);
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

function unavailableSts(code: string, message: string): StsFailure {
  return new StsFailure({ kind: "transient", code, message });
}

function asFailure(error: unknown): StsFailure {
  if (error instanceof StsFailure) return error;
  // Only the class is reported, because the text of an unknown error may hold anything.
  const name = error instanceof Error ? error.constructor.name : typeof error;
  return new StsFailure({
    kind: "transient",
    code: "unknown",
    message: "STS could not be asked; try again shortly",
    detail: `asking STS failed in an unforeseen way (${name})`,
  });
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
