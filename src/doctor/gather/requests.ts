import type { ProcessFacts, UsableFile } from "../types.ts";

/** What doctor asks of its own child processes, and what they answer: JSON, a line each. */

/** Files below one directory, to be looked at as an ordinary user. */
export interface FilesRequest {
  /** The home, or `/`. */
  readonly base: string;
  /** Whose home it is; null for the system. */
  readonly of: string | null;
  readonly files: readonly {
    /** Below the base. */
    readonly path: string;
    readonly use: "read" | "write";
    readonly what: string;
    /** It counts only where it has AWS secrets in it, as far as its first 64 KiB show. */
    readonly onlyWithSecrets?: boolean;
  }[];
}

/** One task of a child. */
export type Task =
  | { readonly kind: "files"; readonly networkHomes: boolean; readonly request: FilesRequest }
  | { readonly kind: "process"; readonly pid: number };

/** What was found in one directory, and what was left out. */
export interface FilesAnswer {
  readonly files: readonly UsableFile[];
  readonly gaps: readonly string[];
}

type Fields = Readonly<Record<string, unknown>>;
const isFields = (value: unknown): value is Fields => typeof value === "object" && value !== null;
const isTexts = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((one) => typeof one === "string");

/** Reads the answer to a request for files; null where it is none. Pure. */
export function readFilesAnswer(answer: unknown): FilesAnswer | null {
  if (!isFields(answer) || !Array.isArray(answer["files"]) || !isTexts(answer["gaps"])) return null;
  const files: UsableFile[] = [];
  for (const file of answer["files"] as unknown[]) {
    if (!isFields(file)) return null;
    const { path, of, use, what } = file;
    if (typeof path !== "string" || typeof what !== "string") return null;
    if ((of !== null && typeof of !== "string") || (use !== "read" && use !== "write")) return null;
    files.push({ path, of, use, what });
  }
  return { files, gaps: answer["gaps"] };
}

/** Reads the answer about a process, which comes from a child of root's own; null where the process has ended. Pure. */
export const readProcessAnswer = (answer: unknown): ProcessFacts | null =>
  isFields(answer) ? (answer as unknown as ProcessFacts) : null;
