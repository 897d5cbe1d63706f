/** nsswitch.conf(5): which services answer for a database, and what follows each answer. Pure. */

/** The status of a service, as the file names it. */
export type SwitchStatus = "success" | "notfound" | "unavail" | "tryagain";
export type SwitchAction = "return" | "continue" | "merge";

export interface SwitchedService {
  readonly name: string;
  readonly actions: Readonly<Record<SwitchStatus, SwitchAction>>;
}

/** The databases that matter here. */
export interface NameSwitch {
  readonly passwd: readonly SwitchedService[];
  readonly group: readonly SwitchedService[];
  /** Null where the file has no such line: then `group` answers, and every service of it. */
  readonly initgroups: readonly SwitchedService[] | null;
  /** The service that knows subordinate uids; null where that is /etc/subuid. Only the first counts (shadow-utils, lib/nss.c). */
  readonly subid: string | null;
}

const STATUSES: readonly SwitchStatus[] = ["success", "notfound", "unavail", "tryagain"];
const DEFAULTS = {
  success: "return",
  notfound: "continue",
  unavail: "continue",
  tryagain: "continue",
} as const;

/** @param text of /etc/nsswitch.conf; empty where there is none. A database without a line is that of `files`. */
export function parseNameSwitch(text: string): NameSwitch {
  const lines = new Map<string, readonly SwitchedService[]>();
  for (const line of text.split("\n")) {
    const found = /^\s*([a-z]+)\s*:(.*)$/i.exec(line.replace(/#.*$/, ""));
    // The last line of a database counts, as in glibc (nss/nss_database.c).
    if (found !== null) lines.set((found[1] ?? "").toLowerCase(), services(found[2] ?? ""));
  }
  const files = services("files");
  const of = (database: string) => {
    const named = lines.get(database) ?? [];
    return named.length === 0 ? files : named;
  };
  const subid = lines.get("subid")?.[0]?.name ?? "files";
  return {
    passwd: of("passwd"),
    group: of("group"),
    initgroups: lines.has("initgroups") ? of("initgroups") : null,
    subid: subid === "files" ? null : subid,
  };
}

function services(text: string): SwitchedService[] {
  const found: SwitchedService[] = [];
  for (const [, name, brackets] of text.matchAll(/([^\s[\]]+)|\[([^\]]*)\]/g)) {
    if (name !== undefined) {
      found.push({ name, actions: DEFAULTS });
      continue;
    }
    const last = found.pop();
    if (last !== undefined) found.push({ name: last.name, actions: actionsOf(brackets ?? "", last.actions) });
  }
  return found;
}

/** `NOTFOUND=return !UNAVAIL=continue`: a `!` stands for every status but that one. */
function actionsOf(
  text: string,
  before: SwitchedService["actions"],
): Readonly<Record<SwitchStatus, SwitchAction>> {
  const actions = { ...before };
  for (const [, not, status = "", action = ""] of text.matchAll(/(!?)([a-z]+)\s*=\s*([a-z]+)/gi)) {
    const named = status.toLowerCase() as SwitchStatus;
    const wanted = action.toLowerCase() as SwitchAction;
    if (!STATUSES.includes(named) || !["return", "continue", "merge"].includes(wanted)) continue;
    for (const one of STATUSES) if ((one === named) === (not === "")) actions[one] = wanted;
  }
  return actions;
}
