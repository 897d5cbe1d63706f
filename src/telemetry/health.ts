import type { OwnFailure } from "../imds/own-failure.ts";
import { explainDenial } from "../sessions/denial.ts";
import type { SessionEvent } from "../sessions/events.ts";
import { sessionKey } from "../sessions/key.ts";
import { passingRemedy } from "../sessions/remedy.ts";
import type { SessionRequest } from "../sessions/types.ts";

/**
 * The health of the service: everything that keeps callers from their credentials now. That is the last failure of each
 * session, and the findings of the checks. A problem is listed from its first sign until it is gone. Nothing in it is secret,
 * but only root may see texts that name the node's role or another user's session.
 */

/** One problem. */
export interface Problem {
  /** `sts`, `upstream`, `configuration`, …: stable, for scripts. */
  readonly id: string;
  /** What was found. */
  readonly what: string;
  /** When it was first seen: ISO 8601, UTC. */
  readonly since: string;
  /** What to do about it; null where that is not known. May have several lines. */
  readonly remedy: string | null;
  /** True where it does not pass by itself. */
  readonly lasting: boolean;
}

/** A problem without the time since when it exists. */
export type Finding = Omit<Problem, "id" | "since">;

/** Failed sessions that are remembered. A user with many uids can fill this list, and evict other sessions' failures. */
const MAX_SESSIONS = 1_024;
/** Milliseconds after which a failure that was not repeated is dropped: nobody has asked for the session since. */
const FORGET_MS = 15 * 60_000;

interface Failure {
  readonly event: SessionEvent & { readonly type: "denied" | "failed" };
  readonly sinceMs: number;
  readonly lastMs: number;
}

export interface HealthOptions {
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** The URL of the STS that is asked; null where it is not known yet. */
  readonly stsEndpoint: () => Promise<string | null>;
  /** The checks by id, which run when the health is asked for. Null means that nothing is wrong. */
  readonly checks: Readonly<Record<string, () => Promise<Finding | null> | Finding | null>>;
}

/** Collects the problems. */
export class Health {
  readonly #options: HealthOptions;
  /** By session key, in the order of the last failure. */
  readonly #failures = new Map<string, Failure>();
  readonly #since = new Map<string, number>();

  constructor(options: HealthOptions) {
    this.#options = options;
  }

  /** Notes the result of an AssumeRole request. */
  session(event: SessionEvent): void {
    if (event.type === "dropped" || event.type === "postponed") return;
    const key = sessionKey(event.request);
    const before = this.#failures.get(key);
    this.#failures.delete(key);
    if (event.type === "obtained") return;
    const now = this.#options.now();
    // Another error is another problem, with a time of its own.
    const same = before !== undefined && before.event.code === event.code;
    this.#failures.set(key, { event, sinceMs: same ? before.sinceMs : now, lastMs: now });
    if (this.#failures.size <= MAX_SESSIONS) return;
    const oldest = this.#failures.keys().next().value;
    if (oldest !== undefined) this.#failures.delete(oldest);
  }

  /** Drops the failure of a session that nobody will ask for again. */
  forget(request: SessionRequest): void {
    this.#failures.delete(sessionKey(request));
  }

  /** The last failure of one session, as its caller may read it; null where it did not fail. */
  ownFailure(request: SessionRequest): OwnFailure | null {
    const failure = this.#failures.get(sessionKey(request));
    if (failure === undefined || this.#isOld(failure)) return null;
    const { event, sinceMs } = failure;
    return {
      message: event.message,
      since: new Date(sinceMs).toISOString(),
      remedy:
        event.type === "denied"
          ? "an administrator of the node has to change the policies of the role: sudo imdsproxy service status says which"
          : "try again shortly; if it keeps failing, an administrator finds the reason by: sudo imdsproxy service status",
    };
  }

  /** All present problems. Those that do not pass by themselves come first. */
  async problems(): Promise<readonly Problem[]> {
    const problems = [...(await this.#stsProblems()), ...(await this.#checked())];
    return problems.sort((a, b) => Number(b.lasting) - Number(a.lasting));
  }

  #isOld({ lastMs }: Failure): boolean {
    const age = this.#options.now() - lastMs;
    return age > FORGET_MS;
  }

  /** One problem for each role and error, however many sessions have it. */
  async #stsProblems(): Promise<Problem[]> {
    const groups = new Map<string, { failures: Failure[]; sinceMs: number }>();
    for (const [key, failure] of this.#failures) {
      if (this.#isOld(failure)) {
        this.#failures.delete(key);
        continue;
      }
      const name = `${failure.event.request.roleArn} ${failure.event.code}`;
      const group = groups.get(name) ?? { failures: [], sinceMs: failure.sinceMs };
      group.failures.push(failure);
      group.sinceMs = Math.min(group.sinceMs, failure.sinceMs);
      groups.set(name, group);
    }
    const endpoint = groups.size === 0 ? null : await this.#options.stsEndpoint().catch(() => null);
    return [...groups.values()].flatMap(({ failures, sinceMs }) => {
      const last = failures.at(-1)?.event;
      if (last === undefined) return [];
      return [
        { id: "sts", since: new Date(sinceMs).toISOString(), ...wordsOf(last, failures.length, endpoint) },
      ];
    });
  }

  async #checked(): Promise<Problem[]> {
    const found = await Promise.all(
      Object.entries(this.#options.checks).map(async ([id, check]) => [id, await check()] as const),
    );
    const now = this.#options.now();
    return found.flatMap(([id, finding]) => {
      if (finding === null) {
        this.#since.delete(id);
        return [];
      }
      const sinceMs = this.#since.get(id) ?? now;
      this.#since.set(id, sinceMs);
      return [{ id, since: new Date(sinceMs).toISOString(), ...finding }];
    });
  }
}

function wordsOf(event: Failure["event"], sessions: number, endpoint: string | null): Finding {
  const { roleArn } = event.request;
  const of = sessions === 1 ? "one session" : `${sessions} sessions`;
  if (event.type === "denied") {
    return {
      what: `${roleArn} cannot be assumed (${event.code}, ${of}): ${event.detail}`,
      remedy: explainDenial(event.request, null, event.detail).text,
      lasting: true,
    };
  }
  return {
    what: `${roleArn} could not be assumed for now (${event.code}, ${of}): ${event.detail}`,
    remedy: passingRemedy(event.code, endpoint),
    lasting: false,
  };
}
