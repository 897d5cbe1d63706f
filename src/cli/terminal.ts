/** What commands print for people: times in words, lines as wide as the terminal, colours on terminals alone. */

const UNITS: readonly (readonly [name: string, seconds: number])[] = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
  ["s", 1],
];

/** A duration in at most two units: `12 s`, `43 min`, `3 h 12 min`, `2 d 4 h`. */
export function durationText(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1_000));
  const at = Math.max(
    0,
    UNITS.findIndex(([, size]) => seconds >= size),
  );
  const [name, size] = UNITS[seconds === 0 ? 3 : at] ?? ["s", 1];
  const [next, smaller] = UNITS[at + 1] ?? ["", 0];
  const whole = Math.floor(seconds / size);
  const rest = smaller === 0 || name === "min" ? 0 : Math.floor((seconds - whole * size) / smaller);
  return `${whole} ${name}${rest === 0 ? "" : ` ${rest} ${next}`}`;
}

/** A moment, as seen from another: `in 43 min`, `5 s ago`, `now`. */
export function momentText(iso: string, nowMs: number): string {
  const ms = Date.parse(iso) - nowMs;
  if (Number.isNaN(ms)) return "at an unknown time";
  if (Math.abs(ms) < 1_000) return "now";
  return ms > 0 ? `in ${durationText(ms)}` : `${durationText(-ms)} ago`;
}

/**
 * What a terminal could take for a command, what changes the direction of a text, and what is not to be seen, so that one name looks like
 * another: Unicode's control and format characters (general categories Cc and Cf), and its separators of lines and paragraphs (Zl, Zp).
 */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/** As JSON writes it: `\uXXXX` for each half of a character beyond the first 65,536. */
const escaped = (character: string): string =>
  Array.from(
    { length: character.length },
    (_, i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, "0")}`,
  ).join("");

/** Escapes every character that is not printed. Users and directories choose names and parts of messages. */
export const plain = (text: string): string => text.replaceAll(UNPRINTABLE, escaped);

/** JSON in lines, with every character that is not printed as `\uXXXX`, which means the same. */
export const jsonText = (value: unknown): string =>
  JSON.stringify(value, null, 2)
    .split("\n")
    .map((line) => line.replaceAll(UNPRINTABLE, escaped))
    .join("\n");

/** The same in one line. */
export const jsonLine = (value: unknown): string => plain(JSON.stringify(value));

/** A text in lines of at most `width` columns; further lines begin with `indent`. A word that is longer stays whole. */
export function wrap(text: string, width: number, indent = ""): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    const longer = line === "" ? word : `${line} ${word}`;
    if (longer.length <= width || line.trim() === "") line = line === "" ? word : longer;
    else {
      lines.push(line);
      line = `${indent}${word}`;
    }
  }
  lines.push(line);
  return lines;
}

/** The width to wrap at: a terminal's, of at least 40; null where the output is no terminal: lines stay whole, so that they can be searched. */
export const widthOf = (stream: { isTTY?: boolean; columns?: number }): number | null =>
  stream.isTTY === true ? Math.max(40, stream.columns ?? 80) : null;

export type Style = "bold" | "red" | "green" | "yellow" | "dim";
const CODES: Readonly<Record<Style, number>> = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 };

/** Whether to write colours to a stream (no-color.org). */
export const takesColours = (
  stream: { isTTY?: boolean },
  variables: Readonly<Record<string, string | undefined>> = process.env,
): boolean => stream.isTTY === true && (variables["NO_COLOR"] ?? "") === "" && variables["TERM"] !== "dumb";

/** Writes texts in a style, or as they are. */
export const painter =
  (colours: boolean) =>
  (style: Style, text: string): string =>
    colours ? `\u001b[${CODES[style]}m${text}\u001b[0m` : text;
