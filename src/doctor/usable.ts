import type { UsableFile } from "./types.ts";

/** A file that another user can use, as a sentence. Pure. */
export const useOf = ({ path, of, use, what }: UsableFile): string =>
  `${path}${of === null ? "" : ` of ${of}`} can be ${use === "read" ? "read" : "written"} by other users: ${what}`;
