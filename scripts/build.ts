/**
 * Builds the executable: `bun scripts/build.ts` for this machine, `--release` for every target.
 * The version is package.json's, the commit git's; both are compiled in.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, utimesSync } from "node:fs";
import { writeRelease } from "./release.ts";

const RELEASE_TARGETS = {
  "imdsproxy-linux-x64": "bun-linux-x64",
  "imdsproxy-linux-x64-baseline": "bun-linux-x64-baseline",
  "imdsproxy-linux-arm64": "bun-linux-arm64",
} as const;

const RELEASE = "dist/release";

const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };

function commit(): string {
  const git = (...args: string[]) => Bun.spawnSync(["git", ...args], { stderr: "ignore" });
  const head = git("rev-parse", "--short=12", "HEAD");
  if (head.exitCode !== 0) return "unknown";
  const dirty = git("status", "--porcelain", "--untracked-files=no").stdout.length > 0;
  return head.stdout.toString().trim() + (dirty ? "-dirty" : "");
}

function build(outfile: string, target: string | null): void {
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
    `--define=IMDSPROXY_VERSION=${JSON.stringify(version)}`,
    `--define=IMDSPROXY_COMMIT=${JSON.stringify(commit())}`,
    ...(target === null ? [] : [`--target=${target}`]),
    // The executable must not read a bunfig.toml or an .env that a user left in the directory it is run from.
    "--no-compile-autoload-dotenv",
    "--no-compile-autoload-bunfig",
    "src/main.ts",
    `--outfile=${outfile}`,
  ];
  const run = Bun.spawnSync([process.execPath, ...args], { stdout: "ignore", stderr: "pipe" });
  if (run.exitCode !== 0) {
    process.stderr.write(run.stderr);
    process.exit(1);
  }
}

mkdirSync("dist", { recursive: true });
if (process.argv.includes("--release")) {
  const executables = Object.entries(RELEASE_TARGETS).map(([name, target]) => {
    console.log(`building ${name}`);
    const outfile = `dist/.${name}.${process.pid}`;
    build(outfile, target);
    const bytes = readFileSync(outfile);
    rmSync(outfile);
    return { name, bytes };
  });
  const files = writeRelease(RELEASE, executables, readFileSync("scripts/install.sh"));
  console.log(`to publish, all that is in ${RELEASE}:`);
  for (const file of files) console.log(`  ${file}`);
} else {
  const started = new Date();
  // Written beside and renamed, so that a running executable is never overwritten in place.
  const draft = `dist/.imdsproxy.${process.pid}`;
  build(draft, null);
  // As old as what it was built from: a source that was changed meanwhile is newer, and make builds again.
  utimesSync(draft, started, started);
  renameSync(draft, "dist/imdsproxy");
}
