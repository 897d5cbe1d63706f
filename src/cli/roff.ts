import { wrap } from "./terminal.ts";

/** Text in the language of man pages: man(7) as groff and mandoc read it. Pure. */

/** The longest line of a page's source; mandoc says where one is longer than 80. */
const WIDTH = 78;

/** What stands for a character that roff would read as something else, or would print as a typographic one (groff_char(7)). */
const ESCAPES: Readonly<Record<string, string>> = {
  "\\": "\\e",
  "-": "\\-",
  "'": "\\(aq",
  "`": "\\(ga",
  "^": "\\(ha",
  "~": "\\(ti",
};

const beyondAscii = (text: string): string =>
  text.replaceAll(
    /[^\u0020-\u007e]/gu,
    (letter) => `\\[u${(letter.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}]`,
  );

/** A line that begins with a dot or a quote would be a request. */
const noRequest = (line: string): string => (/^[.']/.test(line) ? `\\&${line}` : line);

/** What is typed or read to the letter: each dash is one that a shell takes. */
export const literal = (text: string): string =>
  noRequest(beyondAscii(text.replaceAll(/[\\\-'`^~]/g, (letter) => ESCAPES[letter] ?? letter)));

/** Sentences, in lines. In them, flags and what stands in backquotes are to the letter. */
export const prose = (text: string): string[] =>
  wrap(
    text
      .split(/(`[^`]+`|(?<![\w-])--?[a-z][\w-]*)/)
      .map((part, index) =>
        index % 2 === 1
          ? literal(part.replaceAll("`", ""))
          : beyondAscii(part.replaceAll(/[\\'^~`]/g, (letter) => ESCAPES[letter] ?? letter)),
      )
      .join(""),
    WIDTH,
  ).map(noRequest);

/** An argument of a macro: spaces are in quotes. */
export const argument = (text: string): string => `"${literal(text).replaceAll('"', "\\(dq")}"`;

/** The lines of `.TH`. @param date of the page, as `2026-11-26`. */
export const titleLines = (
  name: string,
  section: number,
  { date, source, manual }: { readonly date: string; readonly source: string; readonly manual: string },
): string[] => [
  `.TH ${argument(name.toUpperCase())} ${section} "${date}" ${argument(source)} ${argument(manual)}`,
  // No hyphenation, and no spaces to fill a line: what is copied is what was written.
  ".nh",
  ".ad l",
];

export const section = (title: string): string => `.SH ${argument(title)}`;
export const subsection = (title: string): string => `.SS ${argument(title)}`;
export const paragraph = (text: string): string[] => [".PP", ...prose(text)];

/** A term, and what it means below it. */
export const item = (term: string, text: string): string[] => [
  ".TP",
  `.B ${argument(term)}`,
  ...(text === "" ? ["\\&"] : prose(text)),
];

/** Lines to the letter, a little to the right. */
export const code = (lines: readonly string[]): string[] => [
  ".PP",
  ".RS 2",
  ".nf",
  ...lines.map((line) => (line === "" ? "\\&" : literal(line))),
  ".fi",
  ".RE",
];

/** A row of two columns: two spaces before the first, two or more between them. */
const ROW = /^ {2,5}(\S.*?)(?: {2,}(\S.*))?$/;

/**
 * Text that was laid out for a terminal: paragraphs, rows of two columns, and lines to the letter, with empty lines between them.
 * Laid out anew it fits any width.
 */
export function laidOut(text: string): string[] {
  return text.split("\n\n").flatMap((block) => {
    const lines = block.split("\n");
    if (!lines.every((line) => line.startsWith("  ")))
      return paragraph(lines.map((line) => line.trim()).join(" "));
    if (!/^ {2,5}\S.*? {2,}\S/.test(lines[0] ?? "")) {
      const indent = Math.min(...lines.map((line) => line.length - line.trimStart().length));
      return code(lines.map((line) => line.slice(indent)));
    }
    const rows: { term: string; text: string }[] = [];
    for (const line of lines) {
      const last = rows.at(-1);
      const [, term = "", first = ""] = ROW.exec(line) ?? [];
      if (term !== "") rows.push({ term, text: first });
      else if (last !== undefined) last.text += ` ${line.trim()}`;
    }
    return rows.flatMap((row) => item(row.term, row.text));
  });
}

/** The text of a page. A heading is followed by its text at once: mandoc says where a paragraph begins there. */
export const page = (lines: readonly string[]): string =>
  `${lines.filter((line, index) => line !== ".PP" || !/^\.S[HS] /.test(lines[index - 1] ?? "")).join("\n")}\n`;
