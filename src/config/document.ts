import { type Document, LineCounter, parseDocument } from "yaml";

/** Keys and places in lists, from the top of a file. */
export type KeyPath = readonly PropertyKey[];

/** Where something stands in a file; both count from 1. */
export interface Place {
  readonly line: number;
  readonly column: number;
}

/** How much of a line an excerpt shows, in characters. */
const EXCERPT_LENGTH = 100;
/** Lines that hold what could be a secret are not shown. */
const NOT_SHOWN = /externalId|policy/;

/** The text of a configuration file, its YAML, and where in it each key is. */
export class ConfigDocument {
  /** The name of the text in errors: its path. */
  readonly source: string;
  readonly yaml: Document;
  readonly #lines = new LineCounter();
  readonly #text: string;

  constructor(text: string, source: string) {
    this.source = source;
    this.#text = text;
    this.yaml = parseDocument(text, {
      lineCounter: this.#lines,
      merge: false,
      uniqueKeys: true,
      // The parser's warnings are off: our own checks report the same with a line number.
      logLevel: "error",
    });
  }

  /** The place of an offset into the text. */
  placeAt(offset: number): Place {
    const { line, col } = this.#lines.linePos(offset);
    return { line, column: col };
  }

  /** The place of a key, or of the nearest key around it that the file has. */
  placeOf(keys: KeyPath): Place {
    for (let depth = keys.length; depth > 0; depth--) {
      const parent: unknown =
        depth === 1 ? this.yaml.contents : this.yaml.getIn(keys.slice(0, depth - 1), true);
      const last = keys[depth - 1];
      const items = (parent as { items?: readonly unknown[] } | null)?.items ?? [];
      for (const [index, item] of items.entries()) {
        const pair = item as {
          key?: { value?: unknown; range?: readonly number[] };
          range?: readonly number[];
        };
        const range =
          pair.key !== undefined
            ? String(pair.key.value) === String(last)
              ? pair.key.range
              : undefined
            : index === last
              ? pair.range
              : undefined;
        if (range?.[0] !== undefined) return this.placeAt(range[0]);
      }
    }
    return { line: 1, column: 1 };
  }

  /** `config.yaml:3: rules[0].role` */
  name(keys: KeyPath): string {
    return `${this.source}:${this.placeOf(keys).line}: ${keyText(keys)}`;
  }

  /**
   * The line of a key with a caret under the place, for a terminal: three lines, of which the first is `config.yaml:3:5`. Null
   * where the line could hold a secret, or is too long to be read.
   */
  excerpt(keys: KeyPath): string | null {
    const { line, column } = this.placeOf(keys);
    const text = this.#text.split(/\r?\n/)[line - 1] ?? "";
    if (text.trim() === "" || column > EXCERPT_LENGTH || NOT_SHOWN.test(text)) return null;
    const number = String(line);
    return [
      `${this.source}:${line}:${column}`,
      `${number} | ${printable(text).slice(0, EXCERPT_LENGTH)}`,
      `${" ".repeat(number.length)} | ${" ".repeat(column - 1)}^`,
    ].join("\n");
  }
}

/** A control character moves a terminal's cursor, or does worse: each is shown as one question mark. */
const printable = (text: string): string => text.replaceAll(/\p{Cc}/gu, (one) => (one === "\t" ? " " : "?"));

/** A key in words: `rules[0].role`, or `the file`. */
export const keyText = (keys: KeyPath): string =>
  keys.length === 0
    ? "the file"
    : keys.map((k, i) => (typeof k === "number" ? `[${k}]` : `${i === 0 ? "" : "."}${String(k)}`)).join("");
