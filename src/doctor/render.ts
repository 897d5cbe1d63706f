import { harmless } from "./harmless.ts";
import type { Check, Finding, Report } from "./types.ts";

/** The report as text, for a terminal or a file. Pure. */

/** Columns of the narrowest terminal that people use. */
const COLUMNS = 80;
const LABEL = 9;

/** Words in lines of at most `width` columns, each line but the first behind `indent`. A longer word has a line of its own. */
function wrapped(text: string, indent: string, width: number = COLUMNS): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    const used = line === "" ? 0 : line.length + 1;
    if (line !== "" && indent.length + used + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line].join(`\n${indent}`);
}

/** Text of several lines keeps its lines; each is made harmless and wrapped. */
function block(label: string, text: string): string {
  const indent = " ".repeat(LABEL);
  const lines = text.split("\n").map((line) => {
    const own = /^ */.exec(line)?.[0] ?? "";
    return own + wrapped(harmless(line.slice(own.length)), indent + own);
  });
  return `${label.padEnd(LABEL)}${lines.join(`\n${indent}`)}`;
}

function findingText({ id, level, what, why, remedy, command, source }: Finding): string {
  return [
    block(level === "open" ? "OPEN" : "WARNING", `${id}: ${what}`),
    block("  why", why),
    block("  mend", remedy),
    block("  run", command),
    block("  from", source),
  ].join("\n");
}

const counted = (count: number, one: string, many: string): string =>
  count === 1 ? one : `${count} ${many}`;

/** The summary, in one line. */
function verdict({ as, open, findings, unchecked }: Report): string {
  const ways = findings.filter(({ level }) => level === "open").length;
  const warnings = findings.length - ways;
  const parts = [
    open
      ? `OPEN: ${counted(ways, "one way leads", "ways lead")} an ordinary user to what is not theirs`
      : "nothing that was looked at lets an ordinary user through",
    ...(warnings === 0 ? [] : [counted(warnings, "one warning", "warnings")]),
    ...(unchecked.length === 0
      ? []
      : [`${counted(unchecked.length, "one thing", "things")} could not be looked at`]),
  ];
  return `as ${as.name} (uid ${as.uid}): ${parts.join("; ")}`;
}

/** The whole report. */
export function reportText(report: Report): string {
  const unchecked =
    report.unchecked.length === 0
      ? []
      : [
          [
            "could not be looked at:",
            ...report.unchecked.map(({ id, why }) => `  ${wrapped(harmless(`${id}: ${why}`), "    ")}`),
          ].join("\n"),
        ];
  return [
    wrapped(harmless(verdict(report)), "  "),
    ...report.findings.map(findingText),
    ...unchecked,
    wrapped(`${report.checks.length} checks. One at length: imdsproxy doctor explain ID`, "  "),
  ].join("\n\n");
}

/** All checks, a line or two each. */
export function listText(checks: readonly Check[]): string {
  const width = Math.max(...checks.map(({ id }) => id.length)) + 2;
  return checks.map(({ id, title }) => id.padEnd(width) + wrapped(title, " ".repeat(width))).join("\n");
}

/** One check at length. */
export function explainText({ id, title, level, why, remedy, command, explain }: Check): string {
  return [
    wrapped(`${id}: ${title}`, "  "),
    ...explain.map((paragraph) => wrapped(paragraph, "")),
    [
      block(
        "level",
        level === "open" ? "open: a finding makes doctor exit 1" : "warning: it opens nothing by itself",
      ),
      block("why", why),
      block("mend", remedy),
      block("run", command),
    ].join("\n"),
  ].join("\n\n");
}
