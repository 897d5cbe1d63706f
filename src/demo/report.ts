/** The demo's outcome as a table for people. Pure. */

/** One line of the table. */
export interface ReportRow {
  readonly who: string;
  readonly what: string;
  /** What they got before, or null where it was not tried. */
  readonly before: string | null;
  /** What they get with the proxy. */
  readonly after: string;
  /** Whether that is what the proxy promises. */
  readonly ok: boolean;
}

const HEAD = ["", "WHO", "TRIES", "BEFORE", "WITH IMDSPROXY"] as const;

/** The table, a line a row. @param color whether to use ANSI colours. */
export function renderReport(rows: readonly ReportRow[], color: boolean): string {
  const cells = rows.map((row) => [row.ok ? "ok" : "WRONG", row.who, row.what, row.before ?? "-", row.after]);
  const widths = HEAD.map((title, column) =>
    Math.max(title.length, ...cells.map((cell) => cell[column]?.length ?? 0)),
  );
  const line = (cell: readonly string[]) =>
    cell
      .map((text, column) => text.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd();
  const paint = (text: string, code: number) => (color ? `\x1b[${code}m${text}\x1b[0m` : text);
  return [
    paint(line(HEAD), 1),
    ...cells.map((cell, index) => (rows[index]?.ok === true ? line(cell) : paint(line(cell), 31))),
  ].join("\n");
}
