/** What doctor asks of its own child processes, and what they answer: JSON, a line each. Types alone. */

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
