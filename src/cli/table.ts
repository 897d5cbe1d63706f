import { plain, wrap } from "./terminal.ts";

/**
 * Rows of a name and a value, the values in one column. A value may have several lines. Control characters in it are escaped, because
 * a directory chooses the names of accounts and groups.
 *
 * @param width columns to wrap at, between words; null, the default, leaves lines whole, so that they can be searched.
 */
export function table(
  rows: readonly (readonly [name: string, value: string])[],
  width: number | null = null,
): string {
  const indent = Math.max(...rows.map(([name]) => name.length)) + 2;
  const shown = (value: string) =>
    width === null
      ? value.split("\n").map(plain).join("\n")
      : value
          .split("\n")
          .flatMap((line) => wrap(plain(line), width - indent))
          .join(`\n${" ".repeat(indent)}`);
  return rows.map(([name, value]) => `${name.padEnd(indent)}${shown(value)}`).join("\n");
}
