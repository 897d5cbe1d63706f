import type { Dropped } from "../firewall/limits/own-table.ts";
import type { Whoami } from "../imds/whoami.ts";
import type { NodeStatus, Trouble } from "../service/node-status.ts";
import type { StatusBase, StatusObject, StatusUser, UserStatus } from "../telemetry/status-document.ts";
import { counted, grantsText } from "./common.ts";
import { durationText, momentText, plain, type Style, wrap } from "./terminal.ts";

/** The screens of `imdsproxy status`, as lines; pure. */

/** What a user is shown of themselves; `--json` prints it as it is. */
export interface OwnStatus {
  readonly healthy: boolean;
  /** One line: which role they get, or the first trouble. */
  readonly summary: string;
  readonly troubles: readonly Trouble[];
  /** What the proxy says of itself, and of this user's sessions and requests; null where it does not answer. */
  readonly proxy: UserStatus | null;
  /** As `imdsproxy whoami` has it; null where the proxy does not answer at the metadata address. */
  readonly you: Whoami | null;
}

export interface Line {
  readonly text: string;
  readonly style?: Style;
}

export interface Screen {
  /** Milliseconds since the epoch. */
  readonly nowMs: number;
  /** Columns to wrap at; null where lines are left as they are. */
  readonly width: number | null;
}

const ROLE_NAME = /^arn:[\w-]+:iam::\d+:role\/(?:.*\/)?([^/]+)$/;
const roleName = (arn: string): string => ROLE_NAME.exec(arn)?.[1] ?? arn;

/** Wraps to the screen, and escapes control characters. */
function lines(
  screen: Screen,
  text: string,
  { indent = "", style }: { indent?: string; style?: Style } = {},
): Line[] {
  return text.split("\n").flatMap((one) => {
    const clean = plain(one);
    // A line that is indented already, such as a policy's, is left as it is.
    const own = /^\s*/.exec(clean)?.[0] ?? "";
    const wrapped =
      screen.width === null || own !== "" ? [`${clean}`] : wrap(clean, screen.width - indent.length);
    return wrapped.map((line) => ({ text: `${indent}${line}`, ...(style === undefined ? {} : { style }) }));
  });
}

/** A name and its value: the value wrapped beside it. */
function row(screen: Screen, name: string, value: string): Line[] {
  const head = `${name.padEnd(10)}  `;
  const [first = { text: "" }, ...rest] = lines(screen, value, { indent: " ".repeat(head.length) });
  return [{ text: head + first.text.slice(head.length) }, ...rest];
}

/** Rows in columns, each as wide as its widest cell; the last column is wrapped. */
function columns(screen: Screen, head: readonly string[], body: readonly (readonly string[])[]): Line[] {
  const cells = [head, ...body].map((cells) => cells.map((cell) => plain(cell)));
  const widths = head.map((_, at) =>
    at === head.length - 1 ? 0 : Math.min(24, Math.max(...cells.map((one) => one[at]?.length ?? 0))),
  );
  return cells.flatMap((one, index) => {
    const start = `  ${one
      .slice(0, -1)
      .map((cell, at) => fit(cell, widths[at] ?? 0))
      .join("  ")}  `;
    const [first = { text: "" }, ...rest] = lines(screen, one.at(-1) ?? "", {
      indent: " ".repeat(start.length),
    });
    const style: { style?: Style } = index === 0 ? { style: "dim" } : {};
    return [{ text: start + first.text.slice(start.length), ...style }, ...rest];
  });
}

const fit = (text: string, width: number): string =>
  text.length <= width ? text.padEnd(width) : `${text.slice(0, width - 1)}…`;

function troubleLines(screen: Screen, { what, since, remedy }: Trouble, isFirst: boolean): Line[] {
  return [
    // The first line of the screen has said it.
    ...(isFirst ? [] : lines(screen, `PROBLEM ${what}`, { style: "red" })),
    ...(since === null
      ? []
      : lines(screen, `since ${momentText(since, screen.nowMs)} (${since})`, { indent: "  " })),
    ...(remedy === null ? [] : lines(screen, `to do: ${remedy}`, { indent: "  ", style: "bold" })),
  ];
}

const head = (
  screen: Screen,
  found: { healthy: boolean; summary: string; troubles: readonly Trouble[] },
): Line[] => [
  ...lines(screen, found.summary, { style: found.healthy ? "green" : "red" }),
  ...found.troubles.flatMap((trouble, index) => troubleLines(screen, trouble, index === 0)),
  { text: "" },
];

function sessionLines(screen: Screen, { rows, more }: StatusBase["sessions"]): Line[] {
  if (rows.length === 0) return row(screen, "sessions", "none: one is made when it is asked for");
  return [
    { text: "sessions" },
    ...columns(
      screen,
      ["ENDS FIRST", "VALID", "DENIED", "FAILING", "ROLE"],
      rows.map(({ role, sessions, firstEnd, notRenewed = 0, denied, failing }) => [
        firstEnd === null ? "-" : momentText(firstEnd, screen.nowMs),
        notRenewed === 0 ? String(sessions) : `${sessions} (${notRenewed} not renewed)`,
        String(denied),
        String(failing),
        roleName(role),
      ]),
    ),
    ...moreLines(more, "role"),
  ];
}

const moreLines = (more: number, noun: string): Line[] =>
  more === 0 ? [] : [{ text: `  and ${counted(more, `more ${noun}`)}` }];

const versionsText = ({ v1, v2 }: StatusUser): string => {
  if (v1 === 0) return v2 === 0 ? "-" : "v2";
  return v2 === 0 ? "v1" : `v1 (${Math.max(1, Math.round((100 * v1) / (v1 + v2)))} %), v2`;
};

function outcomeText({ outcome, role, grants, why }: StatusUser): string {
  const granted = grants == null ? "" : grants === "" ? " (no grant: all is denied)" : ` (${grants})`;
  const of = role === null ? "" : ` of ${roleName(role)}${granted}`;
  switch (outcome) {
    case "credentials":
      return `credentials${of}`;
    case "denied":
      return `none${of}: STS denies it`;
    case "unavailable":
      return `none${of} for now${why === null ? "" : `: ${why}`}`;
    case "refused":
      return `refused${why === null ? "" : `: ${why}`}`;
    case "metadata":
      return "metadata; no role was asked for";
  }
}

const whoText = ({ user, uid, container }: StatusUser): string =>
  container === null ? (user ?? `uid ${uid}`) : `container ${container}`;

function userLines(screen: Screen, { rows, more }: StatusBase["users"]): Line[] {
  if (rows.length === 0) return row(screen, "users", "nobody has asked in the last four hours");
  return [
    { text: "users of the last four hours" },
    ...columns(
      screen,
      ["USER", "LAST", "IMDS", "REQUESTS", "LAST OUTCOME"],
      rows.map((one) => [
        whoText(one),
        momentText(one.last, screen.nowMs),
        versionsText(one),
        String(one.requests),
        outcomeText(one),
      ]),
    ),
    ...moreLines(more, "user"),
  ];
}

/** @param above the troubles that the screen shows already; their remedies are not repeated. */
function errorLines(screen: Screen, errors: NodeStatus["errors"], above: readonly Trouble[]): Line[] {
  if (errors === null) return [];
  if (errors.rows.length === 0) return row(screen, "errors", "none in the last four hours");
  return [
    { text: "errors of the last four hours" },
    ...errors.rows.flatMap(({ what, count, last, remedy }) => [
      ...lines(
        screen,
        `${count === 1 ? "once" : `${count} times`}, last ${momentText(last, screen.nowMs)}: ${what}`,
        {
          indent: "  ",
        },
      ),
      ...(remedy === null || above.some((trouble) => trouble.remedy === remedy)
        ? []
        : lines(screen, `to do: ${remedy}`, { indent: "    " })),
    ]),
    ...moreLines(errors.more, "error"),
  ];
}

function configurationText(screen: Screen, found: NonNullable<NodeStatus["configuration"]>): string {
  const { path, rules, defaultRole, lastReload, current, object } = found;
  const reload =
    lastReload === null
      ? "not reloaded since the start"
      : `reloaded ${momentText(lastReload.at, screen.nowMs)}${lastReload.problem === null ? "" : `, and refused: ${lastReload.problem}`}`;
  const file = `${path}: ${counted(rules, "rule")}, ${defaultRole === null ? "no default role" : `default role ${roleName(defaultRole)}`}; ${current ? "" : "the file differs from what runs; "}${reload}`;
  return object === null ? file : `${file}\n${objectText(screen, object)}`;
}

/** Hexadecimal digits of a hash that are shown: as many as two people compare. */
const SHOWN_DIGITS = 12;

function objectText(
  screen: Screen,
  { source, fleet, serial, hash, polled, succeeded }: StatusObject,
): string {
  const which =
    serial === null
      ? "none was ever taken"
      : `serial ${serial}, sha256 ${hash?.slice(0, SHOWN_DIGITS) ?? ""}…`;
  const looked = polled === null ? "not polled yet" : `polled ${momentText(polled, screen.nowMs)}`;
  const success =
    succeeded === null ? "none succeeded" : `the last success ${momentText(succeeded, screen.nowMs)}`;
  const isWell = polled === null || polled === succeeded;
  return `rules of ${source} for the fleet ${fleet}: ${which}; ${looked}${isWell ? "" : `, ${success}`}`;
}

const proxyText = (
  screen: Screen,
  { version, started }: { version: string; started: string },
  more = "",
): string => `version ${version}, up for ${durationText(screen.nowMs - Date.parse(started))}${more}`;

/** Differences that are shown; after a flush there are dozens. */
const MOST_DIFFERENCES = 5;

function differencesText(differences: readonly string[]): string {
  const more = differences.length - MOST_DIFFERENCES;
  return [
    "NOT as they should be:",
    ...differences.slice(0, MOST_DIFFERENCES),
    ...(more > 0 ? [`and ${more} more: sudo imdsproxy iptables status`] : []),
  ].join("\n");
}

const DROPPED: Readonly<Record<keyof Dropped, string>> = {
  new_user: "new connections of one user",
  new_everyone: "new connections of all users together",
  tracked_user: "tracked connections of one user",
  tracked_everyone: "tracked connections of all users together",
  source_routed: "routing headers and source routes",
  unredirected: "past the redirect",
};

/** No line where nothing was dropped. */
function droppedLines(screen: Screen, dropped: Dropped | null): Line[] {
  const kinds = (Object.keys(DROPPED) as (keyof Dropped)[]).filter((kind) => (dropped?.[kind] ?? 0) > 0);
  if (dropped === null || kinds.length === 0) return [];
  const text = kinds.map((kind) => `${DROPPED[kind]} ${dropped[kind]}`).join(", ");
  return row(screen, "limits", `packets dropped since the rules came: ${text}`);
}

/** What root sees. */
export function nodeLines(found: NodeStatus, screen: Screen): Line[] {
  const { proxy, rules, installed, upstream, configuration } = found;
  const rulesText =
    rules.inPlace === null
      ? "cannot be compared while the configuration cannot be read"
      : rules.inPlace
        ? "in place"
        : differencesText(rules.differences);
  const units = installed?.units.map(({ name, enabled, active }) => `${name} ${enabled}, ${active}`);
  return [
    ...head(screen, found),
    ...row(
      screen,
      "proxy",
      proxy.running
        ? proxyText(screen, proxy, `, listens at ${proxy.listen.join(" and ")}`)
        : `NOT running: ${proxy.why.replace(/^the proxy is not running: /, "")}`,
    ),
    ...(upstream === null ? [] : row(screen, "upstream", `${upstream.url} (${upstream.reason})`)),
    ...row(screen, "rules", rulesText),
    ...droppedLines(screen, found.dropped),
    ...row(
      screen,
      "units",
      units === undefined
        ? "not installed"
        : [`installed: ${installed?.version ?? "unknown"}`, ...units].join("\n"),
    ),
    ...(configuration === null ? [] : row(screen, "config", configurationText(screen, configuration))),
    ...(found.sessions === null ? [] : sessionLines(screen, found.sessions)),
    ...(found.users === null ? [] : userLines(screen, found.users)),
    ...errorLines(screen, found.errors, found.troubles),
    ...found.notes.flatMap((note) => lines(screen, `note: ${note}`, { style: "yellow" })),
  ];
}

/** What a user sees. */
export function ownLines(found: OwnStatus, screen: Screen): Line[] {
  const { proxy, you } = found;
  const [seen] = proxy?.users.rows ?? [];
  return [
    ...head(screen, found),
    ...row(screen, "proxy", proxy === null ? "does not answer" : proxyText(screen, proxy)),
    ...(you === null
      ? []
      : [
          ...row(
            screen,
            "you",
            `${you.user ?? "no name"} (uid ${you.uid})${you.slurmJobId === null ? "" : `, Slurm job ${you.slurmJobId}`}`,
          ),
          ...row(screen, "role", you.role ?? "none"),
          ...(you.grants == null ? [] : row(screen, "grants", grantsText(you.grants))),
          ...row(screen, "why", you.reason),
          ...row(
            screen,
            "session",
            you.sessionEnds === null
              ? "none now: one is made when it is asked for"
              : `ends ${momentText(you.sessionEnds, screen.nowMs)}`,
          ),
        ]),
    ...(seen === undefined
      ? []
      : row(
          screen,
          "requests",
          `${seen.requests} in the last four hours, by IMDS ${versionsText(seen)}, the last ${momentText(seen.last, screen.nowMs)}: ${outcomeText(seen)}`,
        )),
    ...(proxy === null || proxy.sessions.rows.length === 0 ? [] : sessionLines(screen, proxy.sessions)),
  ];
}
