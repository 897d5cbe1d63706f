import { readFileSync } from "node:fs";

/** The text of a file; null where it is not there or cannot be read. For short files of the kernel and of root. */
export function textIfAny(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}
