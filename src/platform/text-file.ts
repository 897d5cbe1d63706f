import { readFileSync } from "node:fs";

/** The text of a file; null where it is not there or cannot be read. For files of the kernel's and of root's, which are short. */
export function textIfAny(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}
