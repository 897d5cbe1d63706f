import { isDeepStrictEqual } from "node:util";
import type { Config } from "../config/schema.ts";
import type { Exemptions } from "../firewall/exempt.ts";
import type { KnownAs } from "../identity/accounts.ts";
import type { SessionRequest } from "../sessions/types.ts";
import type { Counts } from "./callers.ts";
import { outcomeText, type Prospect, prospects, type ShownOutcome, shownOutcome } from "./outcome.ts";
import { plainText } from "./plain-text.ts";

/** Whose outcome differs between two configurations. Pure. */

/** Somebody in a situation: a caller that was observed, or an account at a login or in a job. */
export interface Subject {
  readonly who: string;
  readonly where: string;
  readonly uid: number | null;
  readonly container: string | null;
  readonly account: KnownAs | null;
  readonly cgroup: string | null;
  readonly categories: Counts;
}

/** A subject whose outcome differs. */
export interface Change {
  readonly who: string;
  readonly where: string;
  readonly before: ShownOutcome;
  readonly after: ShownOutcome;
  /** Parts of the session that differ, by the names that `rules` has for them. */
  readonly session: readonly string[];
  /** ARNs of session policies that there were before and are not after; and the other way round. */
  readonly policiesLost: readonly string[];
  readonly policiesGained: readonly string[];
  /** Categories that were asked for, answered before and not after; and the other way round. */
  readonly lost: readonly string[];
  readonly gained: readonly string[];
}

export interface Difference {
  readonly changes: readonly Change[];
  readonly unchanged: number;
  /** Keys of the configuration, besides those that decide for users, whose values differ. */
  readonly keys: readonly string[];
}

/** Keys whose differences show in the outcomes. */
const DECIDING: readonly string[] = [
  "rules",
  "role",
  "exempt",
  "platform",
  "sessionName",
  "durationSeconds",
  "nameless",
];

/** Compares two configurations, each with its exemptions on this node. */
export function difference(
  before: { readonly config: Config; readonly exemptions: Exemptions },
  after: { readonly config: Config; readonly exemptions: Exemptions },
  subjects: readonly Subject[],
): Difference {
  const [old, young] = [before, after].map(({ config, exemptions }) => prospects(config, exemptions));
  const changes = subjects.flatMap((subject) => {
    if (old === undefined || young === undefined) return [];
    const change = changeOf(subject, old(subject), young(subject));
    return change === null ? [] : [change];
  });
  const keys = Object.keys({ ...before.config, ...after.config }).filter(
    (key) =>
      !DECIDING.includes(key) &&
      !isDeepStrictEqual(before.config[key as keyof Config], after.config[key as keyof Config]),
  );
  return { changes, unchanged: subjects.length - changes.length, keys };
}

function changeOf({ who, where }: Subject, before: Prospect, after: Prospect): Change | null {
  const [old, young] = [before.outcome, after.outcome];
  const session =
    old.kind === "role" && young.kind === "role" ? sessionChanges(old.request, young.request) : [];
  const policies = [old, young].map((one) => (one.kind === "role" ? one.request.policyArns : []));
  const [policiesBefore = [], policiesAfter = []] = policies;
  const lost = after.lost.filter((category) => !before.lost.includes(category));
  const gained = before.lost.filter((category) => !after.lost.includes(category));
  const isSame =
    old.kind === young.kind &&
    !(old.kind === "role" && young.kind === "role" && old.role !== young.role) &&
    session.length + lost.length + gained.length === 0;
  return isSame
    ? null
    : {
        who,
        where,
        before: shownOutcome(old),
        after: shownOutcome(young),
        session,
        policiesLost: policiesBefore.filter((arn) => !policiesAfter.includes(arn)),
        policiesGained: policiesAfter.filter((arn) => !policiesBefore.includes(arn)),
        lost,
        gained,
      };
}

function sessionChanges(before: SessionRequest, after: SessionRequest): string[] {
  return (Object.keys({ ...before, ...after }) as (keyof SessionRequest)[]).filter(
    (key) => key !== "roleArn" && !isDeepStrictEqual(before[key], after[key]),
  );
}

/** Widths of the columns but the last. */
const WIDTHS = [14, 22, 20] as const;
const COLUMNS = 80;

/** The difference for people. The lines of the table have at most 80 characters; the notes below its rows may be longer. */
export function differenceText({ changes, unchanged, keys }: Difference, of: string): string {
  const lines: string[] = [];
  const last = COLUMNS - WIDTHS.reduce((sum, width) => sum + width + 1, 0);
  const line = (cells: readonly string[]) =>
    cells
      .map((text, index) => {
        const width = WIDTHS[index];
        return width === undefined ? plainText(text, last) : plainText(text, width).padEnd(width);
      })
      .join(" ")
      .trimEnd();
  if (changes.length > 0) lines.push(line(["WHO", "WHERE", "BEFORE", "AFTER"]));
  for (const { who, where, before, after, session, policiesLost, policiesGained, lost, gained } of changes) {
    lines.push(line([who, where, outcomeText(before), outcomeText(after)]));
    const note = (what: string, texts: readonly string[]) => {
      if (texts.length > 0) lines.push(`  ${what}: ${plainText(texts.join(", "), 400)}`);
    };
    if (before.kind === "role" && after.kind === "role" && before.role !== after.role)
      note("role", [`${before.role} -> ${after.role}`]);
    if (after.kind === "refused") note("refused", [after.reason]);
    note("session differs in", session);
    note("session policies no longer given", policiesLost);
    note("session policies then", policiesGained);
    note("404 then, though asked for", lost);
    note("answered then", gained);
  }
  if (lines.length > 0) lines.push("");
  lines.push(`${changes.length} of ${changes.length + unchanged} ${of} get something else`);
  if (keys.length > 0) lines.push(`keys that differ besides: ${keys.join(", ")}`);
  return lines.join("\n");
}
