declare const IMDSPROXY_VERSION: string | undefined;
declare const IMDSPROXY_COMMIT: string | undefined;

/** The version of package.json, compiled in by scripts/build.ts; `0.0.0-source` when run from source. */
export const version: string = typeof IMDSPROXY_VERSION === "string" ? IMDSPROXY_VERSION : "0.0.0-source";
/** The commit it was built from, with `-dirty` where the tree had changes. */
export const commit: string = typeof IMDSPROXY_COMMIT === "string" ? IMDSPROXY_COMMIT : "source";

/** What `--version` prints. */
export const versionText = (): string => `imdsproxy ${version} (${commit})`;
