import type { Subject } from "../identity/caller.ts";
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
import type { Session, SessionOutcome, SessionRequest } from "./types.ts";

/** What the broker needs of STS; src/sessions/sts.ts is the real one. */
export interface Sts {
  /**
   * One attempt, without retries of its own: the broker retries.
   *
   * @param signal aborted when the broker has given the attempt up.
   * @throws StsFailure; anything else counts as a passing failure, and its text is shown to nobody.
   */
  assumeRole(request: SessionRequest, signal: AbortSignal): Promise<Session>;
}

/**
 * Why an attempt was made: a caller needed it (`asked`), or will need it in a moment (`early`), the session was half over,
 * or the last attempt failed.
 */
export type AttemptReason = "asked" | "early" | "refresh" | "retry";

/** An attempt at the first session of a request, under way. */
export interface FirstAttempt {
  /** Milliseconds since the epoch. */
  readonly beganAtMs: number;
  /** Waits until it has ended, whichever way, at most `limitMs`; null where it has. Never rejects. */
  wait(limitMs: number): Promise<void> | null;
}

/** What happened, for the audit log and for metrics. Holds no secret. Times are milliseconds. */
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
      /** From now to the next attempt, or to the moment from which one is allowed again. */
      readonly againInMs: number;
      /** When the session ends that is served meanwhile, or null where there is none. */
      readonly servingUntilMs: number | null;
    }
  | {
      readonly type: "dropped";
      readonly request: SessionRequest;
      /** `ended`: its life was over. `crowded`: another needed its place. */
      readonly reason: "ended" | "crowded";
    }
  /** A call that was not made, because its user or the node had made too many. */
  | {
      readonly type: "postponed";
      readonly request: SessionRequest;
      readonly owner: Subject;
      /** From now to the moment at which the call is made, or may be asked for again. */
      readonly againInMs: number;
    };

/** How the broker stands, for metrics. */
export interface BrokerCounts {
  /** Sessions in memory that have not ended. */
  readonly sessions: number;
  /** Requests remembered, denials and failures included. */
  readonly entries: number;
  /** AssumeRole calls in flight. */
  readonly inFlight: number;
}

export interface BrokerOptions {
  readonly sts: Sts;
  readonly clock: Clock;
  /** A number in [0, 1), for jitter. */
  readonly random: () => number;
  readonly onEvent?: (event: SessionEvent) => void;
  /** Milliseconds that a caller waits for a first session. Default 3000. */
  readonly waitMs?: number;
  /**
   * Milliseconds that a caller waits for a better session when one with little life left is at hand.
   * Default 400: Go's SDK gives the whole answer 500.
   */
  readonly betterWaitMs?: number;
  /** Milliseconds after which an attempt is given up, its turn in the queue not counted. Default 10000. */
  readonly attemptMs?: number;
  /** AssumeRole calls in flight at once. Default 16; no owner has more than half of them. */
  readonly maxConcurrent?: number;
  /** Requests remembered at once. Default 8192, about 3 KiB each. */
  readonly maxEntries?: number;
  /** Of these, those of one owner. Default 256. */
  readonly maxEntriesPerOwner?: number;
  /** How often STS may be called. Default: as often as somebody asks. */
  readonly allowance?: CallAllowance;
}

/** Attempts after passing failures that go on although nobody asks any more, where there is no session to keep. */
const UNASKED_ATTEMPTS = 8;

/** All that is known of one request. */
interface Entry {
  readonly key: string;
  readonly request: SessionRequest;
  readonly owner: Subject;
  /** The session and the timer that removes it at its published end. */
  held: { readonly session: Session; readonly life: Life; readonly cancelEnd: () => void } | null;
  /** `brief`: nobody has asked for it yet, and it is forgotten soon. */
  denial: { readonly message: string; readonly brief: boolean; readonly cancel: () => void } | null;
  /** The next attempt after a passing failure. */
  retry: { readonly dueAtMs: number; readonly cancel: () => void } | null;
  cancelRefresh: (() => void) | null;
  /** Half of the life was over and nobody had asked since the last refresh. */
  refreshMissed: boolean;
  /** Somebody asked since the last refresh began. */
  asked: boolean;
  inFlight: boolean;
  /** The call at the end of `retry` has its token of the allowance. */
  granted: boolean;
  /** When the last attempt began, milliseconds since the epoch. */
  beganAtMs: number;
  /** Passing failures in a row. */
  failures: number;
  failure: string | null;
  /** Until when the allowance lets no call be made, where it is the reason that there is no session. */
  putOffUntilMs: number | null;
  unaskedAttempts: number;
  /** Each is called when an attempt has ended, whichever way. */
  readonly waiters: Set<() => void>;
}

/**
 * Keeps one session for each distinct AssumeRole request, and no more than one attempt at it under way.
 *
 * Attempts belong to no caller: a caller waits beside them for a limited time, and one who leaves changes nothing.
 *
 * Two clocks are at work. Whether a session is served is decided by the wall clock, since its end is a date and
 * clients compare it with the same clock. When it is refreshed and when it is forgotten is decided by timers, which
 * a change of the wall clock does not move. So no jump of the clock serves a session longer than it lives, and none
 * keeps a refresh from happening; a jump forth and back finds the session again, because nothing is
 * forgotten by date.
 *
 * A denial that comes while a valid session stands does not end it: it is told to the log, and asked about again each
 * minute. The session is valid at AWS whatever is done here, its owner may hold it already, and it ends within the
 * half of its life that is left; to cut it off early would protect nothing (revoking sessions is done with a policy
 * on the role) and would let a mistake of a minute in a trust policy stop every job on the node.
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
  readonly #allowance: CallAllowance | null;
  readonly #earlyStarts = new EarlyStarts();
  /** In the order in which they were last asked for. */
  readonly #entries = new Map<string, Entry>();
  readonly #entriesOf = new Map<Subject, number>();
  readonly #attempts = new Set<AbortController>();
  #stopped = false;

  constructor(options: BrokerOptions) {
    this.#sts = options.sts;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#onEvent = options.onEvent ?? (() => {});
    this.#waitMs = options.waitMs ?? 3_000;
    this.#betterWaitMs = options.betterWaitMs ?? 400;
    this.#attemptMs = options.attemptMs ?? 10_000;
    this.#maxEntries = options.maxEntries ?? 8_192;
    this.#maxEntriesPerOwner = options.maxEntriesPerOwner ?? 256;
    this.#slots = new FairSlots<Subject>(options.maxConcurrent ?? 16);
    this.#allowance = options.allowance ?? null;
  }

  /**
   * The session for this request: from memory, else from STS. Answers within `waitMs`; never rejects.
   *
   * @param owner whom the entry and the attempt are counted for, so that one cannot crowd out the rest: the
   *   caller's uid. Default: the session name.
   */
  async get(request: SessionRequest, owner: Subject = request.sessionName): Promise<SessionOutcome> {
    if (this.#stopped) return unavailable("imdsproxy is stopping");
    const entry = this.#entryFor(request, owner);
    if (entry === null) return unavailable("too many sessions are asked for at once; try again shortly");

    const held = this.#asked(entry);
    if (held === "fresh") return this.#answer(entry);
    // No call is under way, and none will be made for this one: too many were.
    if (!entry.inFlight && entry.retry === null && entry.denial === null) return this.#answer(entry);
    // STS is known not to give a better one now: what is valid is served at once.
    if (held === "low" && (entry.denial !== null || entry.failures > 0)) return this.#answer(entry);
    if (entry.denial !== null) return this.#answer(entry);

    const limitMs = held === "low" ? this.#betterWaitMs : this.#waitMs;
    const dueInMs = entry.retry === null ? 0 : entry.retry.dueAtMs - this.#clock.now();
    if (dueInMs < limitMs) await this.#settle(entry, limitMs);
    return this.#answer(entry);
  }

  /**
   * Begins to get the session for a request that will be asked for in a moment. Nobody waits for it here.
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
   * The same for a request that may never be asked for: it is begun early at most once in a session's life, not tried
   * again where it fails, and not renewed until somebody has asked for it.
   *
   * @param leave the share of the node's calls, 0 to 1, that has to be left for those who ask. Default 0.
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
    // Of what its owner may ask for, nothing is taken: it would be gone when they ask.
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

  /** The end that clients are told of this request's session, or null where none is valid. Asks nobody. */
  peek(request: SessionRequest): number | null {
    const entry = this.#entries.get(sessionKey(request));
    const outcome = entry === undefined ? null : this.#answer(entry);
    return outcome?.kind === "session" ? outcome.publishedExpiryMs : null;
  }

  counts(): BrokerCounts {
    let sessions = 0;
    for (const entry of this.#entries.values()) if (entry.held !== null) sessions++;
    return { sessions, entries: this.#entries.size, inFlight: this.#slots.inUse };
  }

  /** Gives up every attempt and forgets every session. Who waits is told that the service stops. */
  stop(): void {
    this.#stopped = true;
    for (const attempt of this.#attempts) attempt.abort();
    for (const entry of [...this.#entries.values()]) {
      entry.failure = "imdsproxy is stopping";
      this.#remove(entry);
      this.#settled(entry);
    }
  }

  /** Somebody asks: begins an attempt where one is due. Returns how what is held stands. */
  #asked(entry: Entry): "fresh" | "low" | "ended" {
    entry.asked = true;
    entry.unaskedAttempts = 0;
    if (entry.denial?.brief === true) {
      entry.denial.cancel();
      this.#deny(entry, entry.denial.message, DENIAL_MS, false);
    }
    const held = this.#standing(entry);
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

  #standing(entry: Entry): "fresh" | "low" | "ended" {
    return entry.held === null ? "ended" : standing(entry.held.life, this.#clock.now());
  }

  #answer(entry: Entry): SessionOutcome {
    const { held, denial } = entry;
    if (held !== null && this.#standing(entry) !== "ended") {
      const publishedExpiryMs = expiryToPublish(held.life, this.#clock.now());
      return { kind: "session", session: held.session, publishedExpiryMs };
    }
    if (denial !== null) return { kind: "denied", message: denial.message };
    const message = entry.failure ?? "STS has not answered yet; try again shortly";
    if (entry.putOffUntilMs === null) return unavailable(message);
    return { ...unavailable(message), retryAfterMs: Math.max(0, entry.putOffUntilMs - this.#clock.now()) };
  }

  /** Waits until an attempt at this entry has ended, at most `limitMs`. Who leaves, leaves nothing behind. */
  #settle(entry: Entry, limitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const leave = () => {
        cancel();
        entry.waiters.delete(leave);
        resolve();
      };
      const cancel = this.#clock.schedule(limitMs, leave);
      entry.waiters.add(leave);
    });
  }

  #settled(entry: Entry): void {
    for (const leave of [...entry.waiters]) leave();
  }

  /** Begins an attempt, unless one is under way, is scheduled, or would only repeat a denial. */
  #attempt(entry: Entry, reason: AttemptReason): void {
    if (entry.inFlight || entry.retry !== null || entry.denial !== null || this.#stopped) return;
    // An early one has its place in the allowance already.
    if (reason !== "early" && !this.#mayCall(entry)) return;
    entry.inFlight = true;
    entry.putOffUntilMs = null;
    entry.beganAtMs = this.#clock.now();
    entry.refreshMissed = false;
    entry.cancelRefresh?.();
    entry.cancelRefresh = null;
    if (reason === "refresh") entry.asked = false;
    void this.#run(entry, reason);
  }

  /**
   * Whether the allowance lets a call be made now. Where it will do so in a while, the call is scheduled, and whoever asks
   * meanwhile waits for the same one.
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
      const cancel = this.#clock.schedule(waitMs, () => {
        entry.retry = null;
        this.#attempt(entry, "asked");
      });
      entry.retry = { dueAtMs: nowMs + waitMs, cancel };
    } else this.#removeIfEmpty(entry);
    this.#emit({ type: "postponed", request: entry.request, owner: entry.owner, againInMs: waitMs });
    return false;
  }

  async #run(entry: Entry, reason: AttemptReason): Promise<void> {
    const release = await this.#slots.acquire(entry.owner);
    const startedAtMs = this.#clock.now();
    try {
      const session = await this.#assumeRole(entry.request);
      if (!this.#stopped) this.#accept(entry, session, reason, startedAtMs);
    } catch (error) {
      if (!this.#stopped) this.#fail(entry, asFailure(error), reason, startedAtMs);
    } finally {
      entry.inFlight = false;
      release();
      this.#settled(entry);
    }
  }

  /** One call of STS that ends, whether or not STS does. */
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
    this.#forget(entry);
    entry.failures = 0;
    entry.failure = null;
    entry.held = {
      session,
      life,
      cancelEnd: this.#clock.schedule(life.publishedLifeMs, () => this.#end(entry)),
    };
    const refreshInMs = refreshDelayMs(life, this.#random());
    entry.cancelRefresh = this.#clock.schedule(refreshInMs, () => this.#refreshDue(entry));
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
      const cancel = this.#clock.schedule(againInMs, () => this.#retryDue(entry));
      entry.retry = { dueAtMs: nowMs + againInMs, cancel };
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
    const cancel = this.#clock.schedule(forMs, () => this.#denialOver(entry));
    entry.denial = { message, brief, cancel };
  }

  #refreshDue(entry: Entry): void {
    entry.cancelRefresh = null;
    if (entry.asked) this.#attempt(entry, "refresh");
    else entry.refreshMissed = true;
  }

  #retryDue(entry: Entry): void {
    entry.retry = null;
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
    entry.held = null;
    entry.cancelRefresh?.();
    entry.cancelRefresh = null;
    entry.refreshMissed = false;
    this.#emit({ type: "dropped", request: entry.request, reason: "ended" });
    this.#removeIfEmpty(entry);
  }

  #emit(event: SessionEvent): void {
    try {
      this.#onEvent(event);
    } catch {
      // A log or a metric that fails must not cost anyone a session.
    }
  }

  /** The entry of this request, now the latest asked for; null where there is no place for it. */
  #entryFor(request: SessionRequest, owner: Subject): Entry | null {
    const key = sessionKey(request);
    const known = this.#entries.get(key);
    if (known !== undefined) {
      this.#entries.delete(key);
      this.#entries.set(key, known);
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
      cancelRefresh: null,
      refreshMissed: false,
      asked: true,
      inFlight: false,
      granted: false,
      beganAtMs: 0,
      failures: 0,
      failure: null,
      putOffUntilMs: null,
      unaskedAttempts: 0,
      waiters: new Set(),
    };
    this.#entries.set(key, entry);
    this.#entriesOf.set(owner, (this.#entriesOf.get(owner) ?? 0) + 1);
    return entry;
  }

  /**
   * Where an owner has too many entries, their own oldest gives way; where all together have too many, the oldest of
   * the owner who has most. So whoever asks for many different sessions loses their own, and nobody else's.
   * An entry that somebody waits for never gives way.
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
      if (entry.inFlight || entry.waiters.size > 0 || !among(entry)) continue;
      this.#remove(entry);
      this.#emit({ type: "dropped", request: entry.request, reason: "crowded" });
      return true;
    }
    return false;
  }

  #removeIfEmpty(entry: Entry): void {
    const busy = entry.inFlight || entry.waiters.size > 0;
    if (!busy && entry.held === null && entry.denial === null && entry.retry === null) this.#remove(entry);
  }

  #remove(entry: Entry): void {
    this.#forget(entry);
    if (!this.#entries.delete(entry.key)) return;
    const left = (this.#entriesOf.get(entry.owner) ?? 0) - 1;
    if (left > 0) this.#entriesOf.set(entry.owner, left);
    else this.#entriesOf.delete(entry.owner);
  }

  /** Takes the session, the denial and every timer from an entry. */
  #forget(entry: Entry): void {
    entry.held?.cancelEnd();
    entry.held = null;
    entry.denial?.cancel();
    entry.denial = null;
    entry.retry?.cancel();
    entry.retry = null;
    entry.granted = false;
    entry.cancelRefresh?.();
    entry.cancelRefresh = null;
    entry.refreshMissed = false;
  }
}

function unavailable(message: string): SessionOutcome & { readonly kind: "unavailable" } {
  return { kind: "unavailable", message };
}

function unavailableSts(code: string, message: string): StsFailure {
  return new StsFailure({ kind: "transient", code, message });
}

function asFailure(error: unknown): StsFailure {
  if (error instanceof StsFailure) return error;
  // Only the class is told: nobody knows what the text of an unknown error holds.
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
    message: "the session that STS gave is over already by this node's clock",
    detail: `the session that STS gave ends at ${iso(expiresAtMs)}, and this node's clock says ${iso(nowMs)}: set the clock (chronyc tracking)`,
  });
}
