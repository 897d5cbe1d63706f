import type { ImdsProxyError } from "../errors.ts";
import { plain, widthOf, wrap } from "./terminal.ts";

/**
 * Prints the sentences of commands. On a terminal, lines are wrapped between words. In a file or a pipe, a line stays whole, so that it can
 * be searched. Control characters are escaped in both, because a log may be read on a terminal later.
 */

/** A line of a policy, of a file with its number, or a caret: each is left as it is, and so is the line above a caret. */
const IS_QUOTED = /^\s+(?:["{}[\]^]|\d* *\|)|^\t/;

/**
 * A text for a stream.
 *
 * @param width columns to wrap at; null where lines stay as they are.
 * @param options.indent what each line begins with. Default nothing.
 * @param options.hanging what further lines of a wrapped one begin with, behind the indent. Default two spaces.
 */
export function fitted(
  text: string,
  width: number | null,
  { indent = "", hanging = "  " }: { readonly indent?: string; readonly hanging?: string } = {},
): string {
  return text
    .split("\n")
    .flatMap((line, i, lines) => {
      const clean = plain(line);
      if (width === null) return [clean];
      if (IS_QUOTED.test(clean) || /^\s*\^/.test(lines[i + 1] ?? "")) return [clean];
      // Of a list, whose lines are indented: what is wrapped is indented further.
      const [own = ""] = /^ */.exec(clean) ?? [];
      const room = width - indent.length - own.length;
      return wrap(clean.slice(own.length), room, hanging).map((part) => `${own}${part}`);
    })
    .map((line) => `${indent}${line}`)
    .join("\n");
}

/** A report whose lines have indents of their own: what is wrapped goes on two columns behind its line's. */
export const fittedReport = (text: string, width: number | null, hanging = "  "): string =>
  text
    .split("\n")
    .map((line) => {
      const [indent = ""] = /^ */.exec(line) ?? [];
      return fitted(line.slice(indent.length), width, { indent, hanging });
    })
    .join("\n");

/** YAML whose comments are wrapped into further comments; everything else is left as it is. */
export const fittedComments = (yaml: string, width: number | null): string =>
  yaml
    .split("\n")
    .map((line) => {
      const [sign] = /^ *# +/.exec(line) ?? [];
      // Editors read this comment, and only in one line.
      if (sign === undefined || line.startsWith("# yaml-language-server:")) return line;
      return fitted(line.slice(sign.length), width, { indent: sign, hanging: "" });
    })
    .join("\n");

/** Prints lines on standard output; as {@link fittedReport}, where `hanging` may be other than two columns. */
export const say = (text: string, hanging?: string): void =>
  console.log(fittedReport(text, widthOf(process.stdout), hanging));

/** Prints a note or a warning, on standard error. */
export const sayBeside = (text: string): void => console.error(fitted(text, widthOf(process.stderr)));

/** An error as a person sees it: the program's name, what was found, and below it what would be right. */
export function errorText({ problem, remedy }: ImdsProxyError, width: number | null): string {
  const found = fitted(`imdsproxy: ${problem}`, width);
  return remedy === null ? found : `${found}\n${fitted(remedy, width, { indent: "  ", hanging: "" })}`;
}
