declare const IMDSPROXY_VERSION: string | undefined;
declare const IMDSPROXY_COMMIT: string | undefined;
declare const IMDSPROXY_DATE: string | undefined;
declare const IMDSPROXY_TARGET: string | undefined;

/** The version of package.json, compiled in by scripts/build.ts; `0.0.0-source` when run from source. */
export const version: string = typeof IMDSPROXY_VERSION === "string" ? IMDSPROXY_VERSION : "0.0.0-source";
/** The commit it was built from, with `-dirty` where the tree had changes. */
export const commit: string = typeof IMDSPROXY_COMMIT === "string" ? IMDSPROXY_COMMIT : "source";
/** The day of that commit, as `2026-11-26`; never the day of the build, so that a build can be repeated. */
export const date: string = typeof IMDSPROXY_DATE === "string" ? IMDSPROXY_DATE : "unknown";
/** What the executable runs on, by the name of its file in a release: `linux-x64`, `linux-x64-baseline` or `linux-arm64`. */
export const target: string =
  typeof IMDSPROXY_TARGET === "string" ? IMDSPROXY_TARGET : `${process.platform}-${process.arch}`;

/** What `--version` prints. */
export const versionText = (): string => `imdsproxy ${version} (${commit})`;
