/** What one try of one client brought; client.py prints it. */
export interface Try {
  /** When it began, milliseconds since the epoch. */
  readonly at: number;
  /** How far it came. */
  readonly step: "connection" | "token" | "list" | "credentials";
  /** 0 where no answer came. */
  readonly status: number;
  readonly role?: string;
  readonly code?: string;
  readonly key?: string | null;
  /** The end of the credentials, ISO 8601. */
  readonly ends?: string | null;
  /** Milliseconds that the answer with the credentials took. */
  readonly ms?: number;
  /** Whether anything that this client got holds a secret of the node's role. */
  readonly leaked: boolean;
}

/** A time in which something may fail that must not fail otherwise. */
export interface Window {
  readonly fromMs: number;
  /** Null while it lasts. */
  toMs: number | null;
}

/** How long after the end of a window what began in it may still be felt: a try takes 10 s at most for each of its requests. */
const AFTER_MS = 15_000;
/** A session with less life than this may be gone by the time of the next try. */
const LEAST_LIFE_MS = 20_000;

export const isWithin = (windows: readonly Window[], atMs: number): boolean =>
  windows.some(({ fromMs, toMs }) => atMs >= fromMs - AFTER_MS && (toMs === null || atMs <= toMs + AFTER_MS));

/** When which parts of the node were disturbed. */
export interface Disturbed {
  /** The proxy was ended or started, or the rules were flushed: connections may be refused or cut. */
  readonly connections: readonly Window[];
  /** The node's own metadata service failed. */
  readonly upstream: readonly Window[];
  /** A reload gave other roles, or the proxy began anew without sessions. */
  readonly sessions: readonly Window[];
}

/** Looks at each try, and says which of the promises it breaks. */
export class Invariants {
  readonly #ownerOf = new Map<string, string>();
  /** The end of each user's last credentials. */
  readonly #endOf = new Map<string, number>();

  /**
   * @param user `root`, or the ordinary user who tried.
   * @param roles the roles that the rules may give.
   * @returns what does not hold; null where all does.
   */
  check(user: string, one: Try, roles: readonly string[], disturbed: Disturbed): string | null {
    if (user === "root") {
      const mayFail = isWithin(disturbed.upstream, one.at) || isWithin(disturbed.connections, one.at);
      if (one.status !== 200 && !mayFail) return `root is refused: ${JSON.stringify(one)}`;
      return one.status === 200 && !one.leaked ? "root has another role than the node's" : null;
    }
    if (one.leaked) return `${user} has something of the node's role`;
    const hadUntilMs = this.#endOf.get(user) ?? 0;
    const isGiven = one.status === 200 && one.code === "Success" && typeof one.key === "string";
    if (!isGiven) {
      const mayFail = isWithin(disturbed.connections, one.at) || isWithin(disturbed.sessions, one.at);
      if (hadUntilMs - one.at > LEAST_LIFE_MS && !mayFail)
        return `${user} has a session, and is not served: ${JSON.stringify(one)}`;
      return null;
    }
    if (!roles.includes(one.role ?? "")) return `${user} has the role ${one.role}`;
    const owner = this.#ownerOf.get(one.key ?? "") ?? user;
    if (owner !== user) return `${user} has the session ${one.key} of ${owner}`;
    this.#ownerOf.set(one.key ?? "", user);
    const endsMs = Date.parse(one.ends ?? "");
    if (!(endsMs > one.at)) return `${user} has a session that ended at ${one.ends}`;
    this.#endOf.set(user, endsMs);
    return null;
  }
}
