import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/**
 * Reads the messages of the program out of its source: what is passed to a call, with `…` for every part that is known only when it
 * runs. Types and comments are not looked at, so no parser is needed: strings, templates and brackets are enough.
 */

/** A call in the source. */
export interface Call {
  readonly file: string;
  readonly line: number;
  /** Its arguments, as source. */
  readonly args: readonly string[];
}

/** Where the string or the template that begins at `from` ends, exclusive. */
function endOfText(source: string, from: number): number {
  const quote = source[from];
  for (let i = from + 1; i < source.length; i++) {
    if (source[i] === "\\") i++;
    else if (source[i] === quote) return i + 1;
    else if (quote === "`" && source.startsWith("${", i)) i = endOfBracket(source, i + 1) - 1;
  }
  throw new Error(`a text without an end: ${source.slice(from, from + 60)}`);
}

/** Where the bracket that opens at `from` closes, exclusive. */
function endOfBracket(source: string, from: number): number {
  for (let i = from + 1; i < source.length; i++) {
    const next = skip(source, i);
    if (next !== i) i = next - 1;
    else if (")]}".includes(source[i] ?? "")) return i + 1;
  }
  throw new Error(`a bracket without an end: ${source.slice(from, from + 60)}`);
}

/** The place behind the text, comment, regular expression or bracket that begins here; else the same place. */
function skip(source: string, at: number): number {
  const letter = source[at] ?? "";
  if (source.startsWith("//", at)) return source.indexOf("\n", at);
  if (source.startsWith("/*", at)) return source.indexOf("*/", at) + 2;
  // A regular expression follows an opening, a comma or an operator, a division does not.
  if (letter === "/" && /[(,=:[!&|?{;]\s*$/.test(source.slice(Math.max(0, at - 20), at))) {
    for (let i = at + 1, inClass = false; i < source.length; i++) {
      if (source[i] === "\\") i++;
      else if (source[i] === "[") inClass = true;
      else if (source[i] === "]") inClass = false;
      else if (source[i] === "/" && !inClass) return i + 1;
    }
  }
  if (letter !== "" && `"'\``.includes(letter)) return endOfText(source, at);
  return letter !== "" && "([{".includes(letter) ? endOfBracket(source, at) : at;
}

/** Parts of a source between separators that stand outside of every text and bracket. */
function split(source: string, separator: RegExp): string[] {
  const parts: string[] = [];
  let begin = 0;
  for (let i = 0; i < source.length; i++) {
    const next = skip(source, i);
    if (next !== i) i = next - 1;
    else {
      const found = separator.exec(source.slice(i, i + 4));
      if (found?.index !== 0) continue;
      parts.push(source.slice(begin, i));
      begin = i + found[0].length;
      i = begin - 1;
    }
  }
  return [...parts, source.slice(begin)].map((part) => part.trim());
}

/** Everything that an expression can be as text. */
export function textsOf(expression: string): string[] {
  const source = expression
    .trim()
    .replace(/,$/, "")
    .replace(/\.trim\(\)$/, "");
  const [condition, ...branches] = split(source, /^\?(?![.?])/);
  if (condition !== undefined && branches.length > 0) {
    const rest = source.slice(source.indexOf(condition) + condition.length).replace(/^\s*\?/, "");
    // The colon that belongs to this question mark: each further one has its own.
    let depth = 0;
    const pieces = split(rest, /^(?:\?(?![.?])|:)/);
    let at = 0;
    for (const [i, piece] of pieces.entries()) {
      at = rest.indexOf(piece, at) + piece.length;
      if (i === pieces.length - 1) break;
      const sign = /[?:]/.exec(rest.slice(at))?.[0];
      if (sign === "?") depth++;
      else if (depth-- === 0) {
        const colon = rest.indexOf(":", at);
        return [...textsOf(rest.slice(0, colon)), ...textsOf(rest.slice(colon + 1))];
      }
    }
  }
  const terms = split(source, /^\+/);
  if (terms.length > 1)
    return terms.map(textsOf).reduce((before, after) => before.flatMap((a) => after.map((b) => a + b)));
  const first = source[0] ?? "";
  if (first === "(" && endOfBracket(source, 0) === source.length) return textsOf(source.slice(1, -1));
  if (first !== "" && `"'\``.includes(first) && endOfText(source, 0) === source.length)
    return [literal(source.slice(1, -1))];
  return ["…"];
}

function literal(text: string): string {
  let found = "";
  for (let i = 0; i < text.length; i++) {
    if (text.startsWith("${", i)) {
      found += "…";
      i = endOfBracket(text, i + 1) - 1;
    } else if (text[i] === "\\") found += text[++i] === "n" ? "\n" : text[i];
    else found += text[i];
  }
  return found;
}

/** Every call that begins with `name(`, in every file of src but those of `except`. */
export function callsOf(name: string, except: readonly string[] = []): Call[] {
  const calls: Call[] = [];
  for (const path of readdirSync("src", { recursive: true, encoding: "utf8" }).sort()) {
    const file = join("src", path);
    if (!file.endsWith(".ts") || except.some((room) => file.startsWith(room))) continue;
    const source = readFileSync(file, "utf8");
    for (let at = source.indexOf(`${name}(`); at !== -1; at = source.indexOf(`${name}(`, at + 1)) {
      const lineStart = source.lastIndexOf("\n", at) + 1;
      // In a comment.
      if (/^\s*(?:\*|\/\/|\/\*)/.test(source.slice(lineStart, at))) continue;
      const open = at + name.length;
      const inside = source.slice(open + 1, endOfBracket(source, open) - 1);
      const args = split(inside, /^,/).filter((arg) => arg !== "");
      calls.push({ file, line: source.slice(0, at).split("\n").length, args });
    }
  }
  return calls;
}

/** Texts in a row, put together by `+`, that begin at a place of the source; with where they end. */
function chainAt(source: string, at: number): { text: string; end: number } {
  let end = endOfText(source, at);
  let text = literal(source.slice(at + 1, end - 1));
  for (;;) {
    const [plus] = /^\s*\+\s*(?=["`])/.exec(source.slice(end, end + 200)) ?? [];
    if (plus === undefined) return { text, end };
    const next = end + plus.length;
    end = endOfText(source, next);
    text += literal(source.slice(next + 1, end - 1));
  }
}

/** Every text of a file's code with at least so many letters: the sentences of a file that has little else. */
export function sentencesOf(file: string, letters: number): string[] {
  const source = readFileSync(file, "utf8");
  const found: string[] = [];
  for (let i = 0; i < source.length; i++) {
    const letter = source[i] ?? "";
    if (letter === '"' || letter === "`") {
      const { text, end } = chainAt(source, i);
      i = end - 1;
      if (lettersOf(text) >= letters) found.push(text);
    } else if (source.startsWith("//", i) || source.startsWith("/*", i) || letter === "/") {
      const next = skip(source, i);
      if (next !== i) i = next - 1;
    }
  }
  return found;
}

/** The letters of a text that are always the same. */
export const lettersOf = (text: string): number => text.replaceAll(/[^a-zA-Z]/g, "").length;

/** Every value of a property that is written out in a folder's files, such as `what: "…"`. */
export function propertiesOf(name: string, folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".ts"))
    .flatMap((path) => {
      const source = readFileSync(join(folder, path), "utf8");
      return [...source.matchAll(new RegExp(`\\b${name}:\\s*(?=["\`])`, "g"))].map(
        (match) => chainAt(source, match.index + match[0].length).text,
      );
    });
}
