/** Escapes text that users choose (names of accounts, files and processes) for a terminal. Pure. */

/**
 * Control characters of both ranges, format characters (those that turn the direction of text among them), line and paragraph
 * separators, and halves of surrogate pairs.
 */
const HARMFUL = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

const escaped = (character: string): string => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;

/** The text with each character that a terminal could interpret as an escape; a backslash becomes two. */
export const harmless = (text: string): string => text.replaceAll("\\", "\\\\").replaceAll(HARMFUL, escaped);

/** JSON of a value, with every such character as `\uXXXX`, which means the same. */
export const harmlessJson = (value: unknown): string =>
  JSON.stringify(value, null, 2).replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, (character) =>
    character === "\n"
      ? character
      : Array.from(
          { length: character.length },
          (_, i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, "0")}`,
        ).join(""),
  );
