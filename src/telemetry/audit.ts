import type { TurnedAway } from "../http/server.ts";
import { type Caller, type Subject, shareOf } from "../identity/caller.ts";
import type { SocketOwner } from "../identity/lookup.ts";
import type { Identity } from "../identity/types.ts";
import type { RequestEvent } from "../imds/request-event.ts";
import type { Clock } from "../platform/clock.ts";
import { SmallMap } from "../platform/small-map.ts";
import { type AuditRecord, auditFields, journalFields } from "./audit-record.ts";
import { DecisionLimit } from "./decision-limit.ts";
import { encodeJournalEntry } from "./journal-entry.ts";
import { PRIORITIES, type Recorder } from "./log.ts";

/**
 * The audit: a line for the first time that a session's credentials are given to a caller, and for each refusal. A caller is a uid
 * in a cgroup, so that each job and each login of a user has its line. Lines are limited by user, and each says how many decisions
 * it stands for.
 */

/** Milliseconds in which a user's refusals of one kind are one line. */
const AGAIN_MS = 10_000;
/**
 * The same for refusals by a rule and for invalid tokens: the programs of a user without a role may ask each second for years,
 * and SDKs use an expired token now and then.
 */
const SELDOM_MS = 600_000;
/** How often decisions without a line are looked for, and the age of a user's last line after which they get one. */
const SWEEP_MS = 60_000;
const UNWRITTEN_MS = SELDOM_MS + SWEEP_MS;
/** Milliseconds that a line waits for the caller's name and cgroup, where no rule needed them. */
const IDENTIFY_MS = 5_000;
/** The most sessions whose callers are remembered, and the most callers of one session. */
const MAX_SESSIONS = 8_192;
const MAX_CALLERS = 4_096;

/** MESSAGE_ID of the entries in the journal (systemd.journal-fields(7)). */
export const MESSAGE_IDS = {
  granted: "6221b86e79334d688adb057e058ebddc",
  refused: "c3189a79b67a40208db4cea0710db9ed",
} as const;

/** The text for what the server itself turns away. */
export const TURNED_AWAY: Record<TurnedAway["kind"], string> = {
  busy: "too many requests of this user are under way whose clients have gone away",
  malformed: "the head of a request is malformed or too long",
  crowded:
    "the limit of open connections, of this user or of all users, is reached, and each of them has a request under way",
};

/** The counts of lines, for the metrics. */
export interface AuditCounts {
  /** Sent to journald with fields. */
  journal: number;
  /** Written to standard error, as JSON alone. */
  stderr: number;
  /** Decisions that are counted in another line, or will be. */
  suppressed: number;
}

export interface AuditOptions {
  readonly log: Recorder;
  /** Sends an entry to journald, and returns false where it could not; null where standard error is not the journal's. */
  readonly journal: ((entry: Uint8Array) => boolean) | null;
  /**
   * The name and the cgroup of a caller, for lines of requests that needed neither; null where nobody can be asked. It may take
   * any time, and reject.
   */
  readonly identify: ((owner: SocketOwner) => Identity | Promise<Identity>) | null;
  readonly clock: Clock;
  /** Milliseconds of a monotonic clock. */
  readonly monotonicMs: () => number;
}

type Unfinished = Omit<AuditRecord, "atMs" | "count">;

/** Writes the lines. */
export class Audit {
  readonly #options: AuditOptions;
  readonly #limit: DecisionLimit;
  /** By access key id. */
  readonly #given = new Map<string, Given>();
  /** Lines that wait for a name. */
  readonly #waiting = new Set<() => void>();
  readonly #counts: AuditCounts = { journal: 0, stderr: 0, suppressed: 0 };
  #cancelSweep: () => void = () => {};

  constructor(options: AuditOptions) {
    this.#options = options;
    this.#limit = new DecisionLimit(options.monotonicMs);
    this.#sweepLater();
  }

  counts(): Readonly<AuditCounts> {
    return this.#counts;
  }

  /** A request was answered. */
  request(event: RequestEvent): void {
    if (event.accessKeyId !== null) {
      // The answer to HEAD has no credentials.
      if (event.method !== "HEAD") this.#granted(event, event.accessKeyId);
      return;
    }
    const kind = event.refusal ?? event.failure?.kind ?? null;
    if (kind === null) return;
    const seldom = kind === "rule" || kind === "token";
    const key = `${kind} ${event.status} ${event.decided?.decision.rule ?? ""}`;
    const count = this.#limit.admit(userOf(event.caller), key, seldom ? SELDOM_MS : AGAIN_MS);
    if (count === null) this.#counts.suppressed++;
    else this.#write({ ...partsOf(event), decision: "refused", kind }, count);
  }

  /** A connection or a request was turned away before it was looked at. */
  turnedAway({ kind, caller, status }: TurnedAway): void {
    const count = this.#limit.admit(userOf(caller), kind, AGAIN_MS);
    if (count === null) {
      this.#counts.suppressed++;
      return;
    }
    const record: Unfinished = {
      decision: "refused",
      kind,
      reason: TURNED_AWAY[kind],
      caller,
      identity: null,
      namedGroups: NO_GROUPS,
      rules: null,
      imdsVersion: null,
      route: "none",
      status,
      accessKeyId: null,
      tookMs: null,
    };
    this.#write(record, count);
  }

  /** Writes the lines that wait, and the counts of decisions that are in no line yet. */
  stop(): void {
    this.#cancelSweep();
    for (const write of [...this.#waiting]) write();
    this.#writeUnwritten(0);
  }

  #granted(event: RequestEvent, accessKeyId: string): void {
    const { caller } = event;
    let given = this.#given.get(accessKeyId);
    if (given === undefined) {
      given = { callers: new SmallMap(), last: null };
      this.#given.set(accessKeyId, given);
      if (this.#given.size > MAX_SESSIONS) {
        const oldest = this.#given.keys().next().value;
        if (oldest !== undefined) this.#given.delete(oldest);
      }
    }
    // The caller who asks again is mostly the one who asked last. Then no key is made of a uid and a cgroup.
    const { callers, last } = given;
    const owner = caller.kind === "owner" ? caller.owner : null;
    if (owner !== null && last?.uid === owner.uid && last.cgroupId === owner.cgroupId) return;
    const key =
      caller.kind === "owner" ? `${caller.owner.uid} ${caller.owner.cgroupId ?? ""}` : userOf(caller);
    const written = callers.get(key);
    if (written === true) {
      given.last = owner;
      return;
    }
    const user = userOf(caller);
    const count = written === undefined ? this.#limit.admit(user, "granted", 0) : this.#limit.retry(user);
    if (count === null && written === undefined) this.#counts.suppressed++;
    // Beyond the limit, callers of a session are not remembered, and get a line again as far as the user's own limit allows.
    if (callers.size < MAX_CALLERS || written === false) callers.set(key, count !== null);
    if (count !== null) this.#write({ ...partsOf(event), decision: "granted", kind: null }, count);
  }

  /** Completes a record and writes it, after the caller's name is known or IDENTIFY_MS are over. */
  #write(unfinished: Unfinished, count: number): void {
    const { clock, identify } = this.#options;
    const record: AuditRecord = { ...unfinished, atMs: clock.now(), count };
    const { caller, identity } = record;
    if (caller.kind !== "owner" || identify === null || (identity !== null && identity.cgroup !== null)) {
      this.#finish(record);
      return;
    }
    let found: Identity | Promise<Identity>;
    try {
      found = identify(caller.owner);
    } catch {
      this.#finish(record);
      return;
    }
    if (!(found instanceof Promise)) {
      this.#finish({ ...record, identity: completed(identity, found) });
      return;
    }
    let cancel = () => {};
    const end = (late: Identity | null) => {
      if (!this.#waiting.delete(giveUp)) return;
      cancel();
      this.#finish(late === null ? record : { ...record, identity: completed(identity, late) });
    };
    const giveUp = () => end(null);
    this.#waiting.add(giveUp);
    cancel = clock.schedule(IDENTIFY_MS, giveUp);
    found.then(end, giveUp);
  }

  #finish(record: AuditRecord): void {
    const level = record.status === 503 || record.status === null ? "warn" : "info";
    const message = record.kind !== null && record.kind in TURNED_AWAY ? "turned away" : record.decision;
    const fields = auditFields(record);
    const { log, journal } = this.#options;
    if (journal !== null) {
      const entry = encodeJournalEntry([
        ["MESSAGE", log.line(level, message, fields)],
        ["MESSAGE_ID", MESSAGE_IDS[record.decision]],
        ["PRIORITY", PRIORITIES[level]],
        ["SYSLOG_IDENTIFIER", "imdsproxy"],
        ...journalFields(fields),
      ]);
      if (journal(entry)) {
        this.#counts.journal++;
        return;
      }
    }
    this.#counts.stderr++;
    log.record(level, message, fields);
  }

  #sweepLater(): void {
    this.#cancelSweep = this.#options.clock.schedule(SWEEP_MS, () => {
      this.#writeUnwritten(UNWRITTEN_MS);
      this.#sweepLater();
    });
  }

  #writeUnwritten(ageMs: number): void {
    for (const { user, count } of this.#limit.takeUnwritten(ageMs))
      this.#options.log.record("info", "decisions without a line of their own", { user, count });
  }
}

/** The callers who got one session. */
interface Given {
  /** True for callers who had a line, false for those whose line could not be written yet. */
  readonly callers: SmallMap<string, boolean>;
  /** Of the callers who had a line, the one who asked last. */
  last: Pick<SocketOwner, "uid" | "cgroupId"> | null;
}

const NO_GROUPS: ReadonlySet<string> = new Set();

/**
 * Whose limit a decision counts towards. A bridged container can take any address of its bridge, so all containers share one; and
 * so do callers who are not known.
 */
function userOf(caller: Caller): string {
  if (caller.kind === "owner") return String(shareOf(caller) satisfies Subject);
  return caller.kind === "container" ? "containers" : "unknown";
}

function partsOf(event: RequestEvent): Omit<Unfinished, "decision" | "kind"> {
  const { decided } = event;
  return {
    reason: event.why ?? event.failure?.message ?? decided?.decision.reason ?? "",
    caller: event.caller,
    identity: decided?.identity ?? null,
    namedGroups: decided?.namedGroups ?? NO_GROUPS,
    rules: decided?.decision ?? null,
    imdsVersion: event.imdsVersion,
    route: event.route,
    status: event.status,
    accessKeyId: event.accessKeyId,
    tookMs: event.tookMs,
  };
}

/** Adds what was looked up for the line to what the decision knew. What the decision depended on stays as it was. */
function completed(known: Identity | null, found: Identity): Identity {
  return known === null ? found : { ...known, cgroup: found.cgroup, slurmJobId: found.slurmJobId };
}
