import { plain } from "./terminal.ts";

/**
 * Rows of a name and a value, the values in one column. A value may have lines; nothing in it is left that a terminal could take for
 * a command, because names of accounts and groups are a directory's.
 */
export function table(rows: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows
    .map(([name, value]) => `${name.padEnd(width)}  ${value.split("\n").map(plain).join("\n")}`)
    .join("\n");
}
