import { writeAll } from "../platform/write-all.ts";

/** Why standard output took no more, as `ENOSPC`; null while it takes all. */
let failure: string | null = null;

/** Writes the whole text to standard output. {@link outputFailure} tells whether that failed. */
export function print(text: string): void {
  failure ??= writeAll(1, text);
}

/**
 * Why a part of the output is lost; null where none is. A reader that closed its end of a pipe (EPIPE), such as head(1), has read what it
 * wanted.
 */
export const outputFailure = (): string | null => (failure === "EPIPE" ? null : failure);
