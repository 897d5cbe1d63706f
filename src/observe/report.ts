import { type Caller, OTHERS } from "./callers.ts";
import type { NamedCaller, Prospect } from "./outcome.ts";
import { outcomeText } from "./outcome.ts";
import { placeText } from "./place.ts";
import { plainText } from "./plain-text.ts";
import type { Run } from "./record.ts";

/** What was observed, for people. Every text that a user chose is made plain before it is shown. Pure. */

/** A caller, and what they would get; null where there is no configuration to tell by. */
export interface Row {
  readonly caller: NamedCaller;
  readonly prospect: Prospect | null;
}

/** Widths of the columns but the last, which has the rest. */
const WIDTHS = { user: 11, place: 21, program: 14, requests: 7, versions: 4 } as const;
const LEAST_COLUMNS = 80;

/** `23 h 48 min`, `12 s`: the two largest units. */
export function durationText(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1_000));
  const units: [number, string][] = [
    [86_400, "d"],
    [3_600, "h"],
    [60, "min"],
    [1, "s"],
  ];
  const at = units.findIndex(([size]) => seconds >= size);
  const [first, second] = at < 0 ? [units[3], undefined] : [units[at], units[at + 1]];
  if (first === undefined) return "0 s";
  const rest = second === undefined ? 0 : Math.floor((seconds % first[0]) / second[0]);
  const more = second === undefined || rest === 0 ? "" : ` ${rest} ${second[1]}`;
  return `${Math.floor(seconds / first[0])} ${first[1]}${more}`;
}

export const times = (count: number, noun: string): string =>
  `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;

/** The user of a caller: their name, else the uid, else the container's address. */
export function userText({ uid, container, account }: NamedCaller): string {
  if (container !== null) return container;
  if (uid === null) return "(no uid)";
  if (uid === 0) return "root";
  const name = account?.userUnavailable === undefined ? (account?.user ?? null) : null;
  if (name === null) return `uid ${uid}`;
  return account?.subordinate === true ? `${name} (${uid})` : name;
}

const INTERPRETER = /^(?:python|perl|ruby|node|java|php|bash|dash|sh|Rscript)[\d.]*$/;
const nameOf = (path: string): string =>
  path
    .replace(/ \(deleted\)$/, "")
    .split("/")
    .at(-1) || path;

/** The last part of the program's path; after an interpreter also that of its script. */
export function programText({ program, arguments: given }: Pick<Caller, "program" | "arguments">): string {
  const name = nameOf(program);
  const script = given?.[0] ?? "-";
  return INTERPRETER.test(name) && !script.startsWith("-") ? `${name} ${nameOf(script)}` : name;
}

/** `1`, `2`, `1+2`: the versions of IMDS; `?` where none could be told. */
export function versionsText({ v1, v2 }: Pick<Caller, "v1" | "v2">): string {
  const versions = [...(v1 > 0 ? ["1"] : []), ...(v2 > 0 ? ["2"] : [])];
  return versions.length === 0 ? "?" : versions.join("+");
}

const cell = (text: string, width: number): string => plainText(text, width).padEnd(width);

/** The table, as lines of at most `columns` characters. */
export function tableLines(rows: readonly Row[], columns: number): string[] {
  const width = Math.max(columns, LEAST_COLUMNS);
  const { user, place, program, requests, versions } = WIDTHS;
  const last = width - (user + place + program + requests + versions) - 5;
  const line = (cells: readonly [string, string, string, string, string, string]) =>
    [
      cell(cells[0], user),
      cell(cells[1], place),
      cell(cells[2], program),
      plainText(cells[3], requests).padStart(requests),
      cell(cells[4], versions),
      plainText(cells[5], last),
    ]
      .join(" ")
      .trimEnd();
  const head = line(["USER", "WHERE", "PROGRAM", "ASKED", "IMDS", "WOULD GET"]);
  return [
    head,
    ...rows.map(({ caller, prospect }) =>
      line([
        userText(caller),
        placeText(caller.place),
        programText(caller),
        String(caller.requests),
        versionsText(caller),
        prospect === null ? "-" : prospectText(prospect),
      ]),
    ),
  ];
}

function prospectText({ outcome, lost }: Prospect): string {
  return lost.length === 0 ? outcomeText(outcome) : `${outcomeText(outcome)}; ${lost.length}x 404`;
}

/** What the live view shows besides the table. */
export interface Progress {
  readonly sinceMs: number;
  /** How long it goes on, in milliseconds; null until somebody ends it. */
  readonly leftMs: number | null;
  readonly missed: string;
}

/** A screen of the live view: lines that fit the terminal. */
export function screenLines(
  rows: readonly Row[],
  { sinceMs, leftMs, missed }: Progress,
  size: { readonly columns: number; readonly lines: number },
): string[] {
  const requests = rows.reduce((sum, { caller }) => sum + caller.requests, 0);
  const left = leftMs === null ? "until Ctrl-C" : `${durationText(leftMs)} left`;
  // Two lines, because one line of 80 columns would cut off what was missed.
  const head = [
    `imdsproxy observe: ${durationText(sinceMs)}, ${left}`,
    `${times(requests, "request")} by ${times(rows.length, "caller")}; ${missed}`,
  ].map((line) => plainText(line, size.columns));
  const room = Math.max(1, size.lines - 6);
  const table = tableLines(rows.slice(0, room), size.columns);
  const more = rows.length > room ? [`and ${times(rows.length - room, "caller")} more`] : [];
  return [...head, "", ...table, ...more].slice(0, Math.max(1, size.lines - 1));
}

/** `nothing missed`, or how much. */
export function missedText(missed: number, atLeast: boolean, gap = false): string {
  if (gap) return `${times(missed, "packet")} missed, and what was asked while the rules were away`;
  if (missed === 0 && !atLeast) return "nothing missed";
  return `${atLeast ? "at least " : ""}${times(Math.max(1, missed), "packet")} missed`;
}

/** The report of one or several runs. */
export function reportText(
  rows: readonly Row[],
  options: {
    readonly runs: readonly Run[];
    readonly missed: string;
    /** What the configuration is called; null where there is none. */
    readonly config: string | null;
    readonly columns: number;
  },
): string {
  const lines: string[] = [];
  const listened = options.runs.reduce((sum, { fromMs, toMs }) => sum + Math.max(0, toMs - fromMs), 0);
  const requests = rows.reduce((sum, { caller }) => sum + caller.requests, 0);
  lines.push(
    `${times(requests, "request")} by ${times(rows.length, "caller")} in ${durationText(listened)}; ${options.missed}`,
  );
  if (rows.length > 0) lines.push("", ...tableLines(rows, options.columns));
  const lost = rows.flatMap(({ caller, prospect }) =>
    prospect === null || prospect.lost.length === 0
      ? []
      : [`  ${who(caller)}: ${plainText(prospect.lost.join(", "), 400)}`],
  );
  if (lost.length > 0)
    lines.push("", `asked for now, and not answered then (404; key imds.allow opens some by name):`, ...lost);
  const refused = rows.flatMap(({ caller, prospect }) =>
    prospect?.outcome.kind === "refused"
      ? [`  ${who(caller)}: ${plainText(prospect.outcome.reason, 400)}`]
      : [],
  );
  if (refused.length > 0) lines.push("", "refused then:", ...refused);
  const v1 = rows.filter(({ caller }) => caller.v1 > 0);
  if (v1.length > 0) {
    lines.push("", "ask without a token (IMDSv1), which imds.tokens: required refuses:");
    lines.push(...v1.map(({ caller }) => `  ${who(caller)}: ${times(caller.v1, "request")}`));
  }
  if (options.config === null && rows.length > 0)
    lines.push("", "no configuration here: name one with --config FILE to see what each would get");
  return lines.join("\n");
}

/** One caller in a line: `alice, login session, python3.11 train.py`. */
export function who(caller: NamedCaller): string {
  const parts = [userText(caller), ...(caller.place.kind === "unknown" ? [] : [placeText(caller.place)])];
  if (caller.program === OTHERS) parts.push("several programs");
  else if (caller.program !== "unknown")
    parts.push([nameOf(caller.program), ...(caller.arguments ?? [])].join(" "));
  return plainText(parts.join(", "), 160);
}
