/**
 * Builds the executable: `bun scripts/build.ts` for this machine, `bun scripts/build.ts TARGET` for another (dist/imdsproxy-TARGET),
 * `--release` for every target, with all that a release has.
 * The version is package.json's, the commit and its day are git's; all are compiled in. The same commit and the same Bun give the same
 * bytes, wherever the tree is.
 *
 * Environment, for a tree without git (a source archive), or to repeat a build:
 *   IMDSPROXY_COMMIT    what to take for the commit
 *   SOURCE_DATE_EPOCH   the seconds of its day (reproducible-builds.org)
 * and for a release:
 *   SIGNING_KEY         a file with the private key that signs SHA256SUMS; see release/signature.ts
 */
import { mkdirSync, readFileSync, renameSync, rmSync, utimesSync } from "node:fs";
import type { Metafile } from "./release/packages.ts";

const TARGETS = ["linux-x64", "linux-x64-baseline", "linux-arm64"] as const;

const RELEASE = "dist/release";

const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };

/** What git says; null where this is no clone, or there is no git. */
function git(...args: string[]): string | null {
  try {
    const { exitCode, stdout } = Bun.spawnSync(["git", ...args], { stderr: "ignore" });
    return exitCode === 0 ? stdout.toString().trim() : null;
  } catch {
    return null;
  }
}

function commitOf(): string {
  const given = process.env["IMDSPROXY_COMMIT"];
  if (given !== undefined && /^[\w.-]+$/.test(given)) return given;
  const head = git("rev-parse", "--short=12", "HEAD");
  if (head === null) return "unknown";
  return head + (git("status", "--porcelain", "--untracked-files=no") === "" ? "" : "-dirty");
}

/** The day of the commit, in UTC. */
function dateOf(): string {
  const seconds = process.env["SOURCE_DATE_EPOCH"] ?? git("log", "-1", "--format=%ct") ?? "";
  return /^\d{1,11}$/.test(seconds)
    ? new Date(Number(seconds) * 1_000).toISOString().slice(0, 10)
    : "unknown";
}

const commit = commitOf();
const date = dateOf();

/** Of this run alone: nothing that runs is overwritten in place, and two runs do not meet. */
const SCRATCH = `dist/.build.${process.pid}`;
/** The bundler writes the name of its output into the executable, so it is the same in every run and on every machine. */
const OUTPUT = `${SCRATCH}/imdsproxy`;

/**
 * Builds OUTPUT.
 *
 * @param target one of TARGETS; null: this machine's own Bun.
 * @param metafile where to write what is in the executable.
 */
function build(target: string | null, metafile: string | null = null): void {
  const define = (name: string, value: string) => `--define=IMDSPROXY_${name}=${JSON.stringify(value)}`;
  const args = [
    "build",
    "--compile",
    "--minify-syntax",
    "--minify-whitespace",
    "--format=esm",
    "--bytecode",
    // Each command is a part of its own, so that one loads what it needs and no more.
    "--splitting",
    // Until src/platform/compilation.ts says otherwise.
    "--compile-jit-policy=10",
    define("VERSION", version),
    define("COMMIT", commit),
    define("DATE", date),
    define("TARGET", target ?? `${process.platform}-${process.arch}`),
    ...(target === null ? [] : [`--target=bun-${target}`]),
    ...(metafile === null ? [] : [`--metafile=${metafile}`]),
    // The executable must not read a bunfig.toml or an .env that a user left in the directory it is run from.
    "--no-compile-autoload-dotenv",
    "--no-compile-autoload-bunfig",
    "src/main.ts",
    `--outfile=${OUTPUT}`,
  ];
  const run = Bun.spawnSync([process.execPath, ...args], { stdout: "ignore", stderr: "pipe" });
  if (run.exitCode !== 0) {
    process.stderr.write(run.stderr);
    rmSync(SCRATCH, { recursive: true, force: true });
    process.exit(1);
  }
}

async function release(): Promise<void> {
  // Loaded here: the executable alone needs nothing of it.
  const [{ releaseFiles }, { packagesIn }, { pinOf, signingKey }, { writeRelease }] = await Promise.all([
    import("./release/files.ts"),
    import("./release/packages.ts"),
    import("./release/signature.ts"),
    import("./release.ts"),
  ]);
  const keyFile = process.env["SIGNING_KEY"] ?? "";
  // Before anything is built: a key that cannot be used is said at once.
  const key = keyFile === "" ? undefined : signingKey(readFileSync(keyFile, "utf8"), keyFile);
  const metafile = `${SCRATCH}/metafile.json`;
  const executables = TARGETS.map((target) => {
    const name = `imdsproxy-${target}`;
    console.log(`building ${name}`);
    build(target, metafile);
    return { name, bytes: readFileSync(OUTPUT) };
  });
  const packages = packagesIn(JSON.parse(readFileSync(metafile, "utf8")) as Metafile);
  const others = await releaseFiles({ version, commit, date, packages });
  const files = writeRelease(RELEASE, executables, others, key);
  console.log(`to publish, all that is in ${RELEASE}:`);
  for (const file of files) console.log(`  ${file}`);
  console.log(
    key === undefined
      ? "SHA256SUMS is not signed: SIGNING_KEY=FILE signs it"
      : `to pin its key: install.sh --public-key ${pinOf(key)}`,
  );
}

mkdirSync(SCRATCH, { recursive: true });
if (process.argv.includes("--release")) await release();
else {
  const started = new Date();
  const target = TARGETS.find((one) => process.argv[2] === one) ?? null;
  build(target);
  // As old as what it was built from: a source that was changed meanwhile is newer, and make builds again.
  utimesSync(OUTPUT, started, started);
  renameSync(OUTPUT, target === null ? "dist/imdsproxy" : `dist/imdsproxy-${target}`);
}
rmSync(SCRATCH, { recursive: true });
