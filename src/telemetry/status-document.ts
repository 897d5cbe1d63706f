import type { RoleSessions } from "../sessions/summary.ts";
import type { Problem } from "./health.ts";
import type { RecentError } from "./recent-errors.ts";
import type { SeenOutcome, SeenUser } from "./seen-users.ts";

/**
 * What the running proxy reports of itself over its status socket, as JSON. Holds no secret. Times are ISO 8601 in UTC. Root gets
 * all of it, a user the same of themselves alone.
 */

/** The directory of the sockets. Only root and the service's account may write there. */
export const STATUS_DIRECTORY = "/run/imdsproxy/proxy";
/** The socket for root alone, so that no user can keep root from the status. */
export const ROOT_SOCKET = `${STATUS_DIRECTORY}/root.sock`;
/** The socket for everybody. */
export const USERS_SOCKET = `${STATUS_DIRECTORY}/users.sock`;
/** The longest document in bytes: what the bounds below allow, with every character escaped. */
export const MOST_BYTES = 2 * 1024 * 1024;

/** The most rows of each list in a document; further ones are only counted. */
const MOST_ROWS = 200;
const MOST_TEXTS = 20;
/** The longest text, in characters. Others' texts, such as STS's, have no limit of their own. */
const MOST_CHARACTERS = 2_000;
/** The longest text in a user's row. */
const MOST_WHY = 200;

/** A list that may be cut. */
export interface Rows<Row> {
  readonly rows: readonly Row[];
  /** How many more there are. */
  readonly more: number;
}

export interface StatusUser {
  /** Null where it has none, or where no answer has depended on it. */
  readonly user: string | null;
  /** Null for a container. */
  readonly uid: number | null;
  readonly container: string | null;
  readonly first: string;
  readonly last: string;
  readonly requests: number;
  /** Requests by version 1 (without a token) and version 2 of IMDS. */
  readonly v1: number;
  readonly v2: number;
  readonly outcome: SeenOutcome;
  readonly role: string | null;
  /**
   * For a rule with `grant: union`, the names of the grants that matched, joined by commas; empty where everything is denied,
   * null for any other rule. Absent in version 0.2.
   */
  readonly grants?: string | null;
  readonly why: string | null;
}

export interface StatusSessions {
  readonly role: string;
  readonly sessions: number;
  /** When the first of them ends; null where there is none. */
  readonly firstEnd: string | null;
  /** Of these sessions, those that STS did not renew when it was asked last. Absent in version 0.2. */
  readonly notRenewed?: number;
  /** Requests without a session, which STS denied, or which fail for now: as imdsproxy_session_requests counts them. */
  readonly denied: number;
  readonly failing: number;
}

export interface StatusError {
  readonly what: string;
  readonly count: number;
  readonly first: string;
  readonly last: string;
  readonly remedy: string | null;
}

/** What every caller gets. */
export interface StatusBase {
  readonly version: string;
  readonly started: string;
  readonly sessions: Rows<StatusSessions>;
  readonly users: Rows<StatusUser>;
}

/** The fleet's object that the rules come from. */
export interface StatusObject {
  /** `s3://BUCKET/KEY` */
  readonly source: string;
  readonly fleet: string;
  /** Of the object that runs; null where none does. */
  readonly serial: number | null;
  /** SHA-256 in hexadecimal. */
  readonly hash: string | null;
  /** The last poll, and the last one that succeeded; null where there was none. */
  readonly polled: string | null;
  readonly succeeded: string | null;
}

/** What root gets. */
export interface RootStatus extends StatusBase {
  readonly for: "root";
  readonly listen: readonly string[];
  readonly upstream: { readonly url: string; readonly reason: string };
  readonly configuration: {
    readonly path: string;
    /** Whether the file on the disk is what runs. */
    readonly current: boolean;
    readonly rules: number;
    readonly defaultRole: string | null;
    /** The last reload; null where there was none since the start. */
    readonly lastReload: { readonly at: string; readonly problem: string | null } | null;
    /** The fleet's object; null where the file has all of the configuration. */
    readonly object: StatusObject | null;
  };
  readonly problems: Rows<Problem>;
  readonly errors: Rows<StatusError>;
}

/** What a user gets: `users` has one row, or none. */
export interface UserStatus extends StatusBase {
  readonly for: "user";
  readonly uid: number;
}

export type StatusDocument = RootStatus | UserStatus;

const iso = (ms: number): string => new Date(ms).toISOString();

const rowsOf = <Row>(all: readonly Row[], most: number): Rows<Row> => ({
  rows: all.slice(0, most),
  more: Math.max(0, all.length - most),
});

const cut = (text: string, most = MOST_CHARACTERS): string =>
  text.length <= most ? text : `${text.slice(0, most)} …`;

export const sessionRows = (roles: readonly RoleSessions[]): Rows<StatusSessions> =>
  rowsOf(
    roles.map(({ firstEndMs, ...rest }) => ({
      ...rest,
      firstEnd: firstEndMs === null ? null : iso(firstEndMs),
    })),
    MOST_ROWS,
  );

export function userRows(seen: readonly SeenUser[]): Rows<StatusUser> {
  const { rows, more } = rowsOf(seen, MOST_ROWS);
  return {
    rows: rows.map(({ share: _, subject, firstMs, lastMs, why, user, grants, ...rest }) => ({
      user,
      uid: typeof subject === "number" ? subject : null,
      container: typeof subject === "number" ? null : subject,
      first: iso(firstMs),
      last: iso(lastMs),
      ...rest,
      grants: grants === null ? null : cut(grants.join(", "), MOST_WHY),
      why: why === null ? null : cut(why, MOST_WHY),
    })),
    more,
  };
}

export const problemRows = (problems: readonly Problem[]): Rows<Problem> =>
  rowsOf(
    problems.map((one) => ({
      ...one,
      what: cut(one.what),
      remedy: one.remedy === null ? null : cut(one.remedy),
    })),
    MOST_TEXTS,
  );

export const errorRows = (errors: readonly RecentError[]): Rows<StatusError> =>
  rowsOf(
    errors.map(({ what, count, firstMs, lastMs, remedy }) => ({
      what: cut(what),
      count,
      first: iso(firstMs),
      last: iso(lastMs),
      remedy: remedy === null ? null : cut(remedy),
    })),
    MOST_TEXTS,
  );
