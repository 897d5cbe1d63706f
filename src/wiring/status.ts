import type { UnavailableEvent } from "../identity/accounts.ts";
import type { RequestEvent } from "../imds/request-event.ts";
import type { SessionBroker } from "../sessions/broker.ts";
import { explainDenial } from "../sessions/denial.ts";
import type { SessionEvent } from "../sessions/events.ts";
import { passingRemedy } from "../sessions/remedy.ts";
import type { Problem } from "../telemetry/health.ts";
import { RecentErrors } from "../telemetry/recent-errors.ts";
import { SeenUsers } from "../telemetry/seen-users.ts";
import {
  errorRows,
  problemRows,
  type RootStatus,
  type StatusDocument,
  sessionRows,
  type UserStatus,
  userRows,
} from "../telemetry/status-document.ts";
import { version } from "../version.ts";
import type { Asker } from "./status-server.ts";

/** What the proxy remembers for `imdsproxy status`, and the documents that it makes of it. */

export interface StatusSources {
  readonly broker: Pick<SessionBroker, "byRole">;
  readonly problems: () => Promise<readonly Problem[]>;
  /** What a restart or a reload changes. */
  readonly facts: () => Pick<RootStatus, "listen" | "upstream" | "configuration">;
}

export class Status {
  readonly #seen: SeenUsers;
  readonly #errors: RecentErrors;
  readonly #startedMs: number;

  /** @param options.now milliseconds since the epoch. */
  constructor(options: { readonly now: () => number }) {
    this.#startedMs = options.now();
    this.#seen = new SeenUsers(options);
    this.#errors = new RecentErrors(options);
  }

  request(event: RequestEvent): void {
    this.#seen.request(event);
    if (event.status !== 503 || event.why === undefined) return;
    this.#errors.note("request", `a request was answered with 503: ${event.why}`, () => null);
  }

  session(event: SessionEvent, stsEndpoint: () => string | null): void {
    if (event.type !== "denied" && event.type !== "failed") return;
    const { request, code, detail } = event;
    const isDenied = event.type === "denied";
    this.#errors.note(
      `${event.type} ${request.roleArn} ${code}`,
      `${request.roleArn} ${isDenied ? "cannot be assumed" : "could not be assumed for now"} (${code}): ${detail}`,
      () => (isDenied ? explainDenial(request, null, detail).text : passingRemedy(code, stsEndpoint())),
    );
  }

  unidentified(why: string): void {
    this.#errors.note("unidentified", `a caller could not be identified: ${why}`, () => null);
  }

  acceptFailure(code: string): void {
    this.#errors.note("accept", `connections could not be accepted for a moment (${code})`, () =>
      code === "EMFILE" ? "raise LimitNOFILE= of imdsproxy.service" : null,
    );
  }

  names(event: UnavailableEvent): void {
    this.#errors.note(
      `names ${event.outcome}`,
      event.outcome === "kept"
        ? `the account database did not answer, and its earlier answer was used: ${event.why}`
        : `the account database did not answer, and a user is not known by name: ${event.why}`,
      () => "systemctl status sssd, nslcd or winbind, whichever /etc/nsswitch.conf names",
    );
  }

  /** The document for whoever asks. */
  async document(asker: Asker, sources: StatusSources): Promise<StatusDocument> {
    const base = { version, started: new Date(this.#startedMs).toISOString() };
    if (asker.kind === "user") {
      const own = this.#seen.of(asker.share);
      return {
        for: "user",
        uid: asker.uid,
        ...base,
        sessions: sessionRows(sources.broker.byRole(asker.share)),
        users: userRows(own === null ? [] : [own]),
      } satisfies UserStatus;
    }
    return {
      for: "root",
      ...base,
      ...sources.facts(),
      problems: problemRows(await sources.problems()),
      sessions: sessionRows(sources.broker.byRole()),
      users: userRows(this.#seen.list()),
      errors: errorRows(this.#errors.list()),
    } satisfies RootStatus;
  }
}
