/**
 * Installs the clients into .cache/clients, by the registries' ordinary clients; what is there already is left alone. A part
 * that cannot be had is told with its reason and how to get it, and its clients are skipped.
 */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { CLIENTS, type Part } from "./list.ts";

export const FIXTURES = resolve(import.meta.dir, "fixtures");
export const CACHE = resolve(import.meta.dir, "../../.cache/clients");

/** Programs that a part is made with, and where they come from. */
const TOOLS: Readonly<Record<Part["kind"], readonly (readonly [program: string, from: string])[]>> = {
  debian: [["apt-get", "a Debian system"]],
  python: [["/usr/bin/python3", "Debian's python3 and python3-venv"]],
  go: [["go", "Go 1.26 or newer"]],
  rust: [["cargo", "Rust 1.94 or newer, by rustup"]],
  java: [
    ["javac", "a JDK, 17 or newer"],
    ["mvn", "Maven"],
  ],
  js: [["npm", "Node.js 20 or newer, with npm"]],
};

/** What distinguishes a part from the others. */
export const nameOf = (part: Part): string =>
  part.kind === "python" ? part.name : part.kind === "debian" ? part.packages.join(" ") : part.kind;

/** Runs a program to its end; throws with the last of what it said. */
function run(argv: readonly string[], cwd: string, env: Readonly<Record<string, string>> = {}): void {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["nice", ...argv], {
    cwd,
    env: { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
  });
  if (exitCode === 0) return;
  const said = `${stdout}${stderr}`.trim().split("\n").slice(-5).join("\n");
  throw new Error(`${argv.slice(0, 3).join(" ")} …: exit ${exitCode}\n${said}`);
}

/** Every file of a fixture as one digest: a part is made anew where its fixture or its list of packages has changed. */
function digestOf(part: Part): string {
  const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify(part));
  if (part.kind === "go" || part.kind === "rust" || part.kind === "java" || part.kind === "js") {
    const folder = join(FIXTURES, part.kind);
    const files = readdirSync(folder, { recursive: true, withFileTypes: true });
    for (const file of files
      .filter((entry) => entry.isFile() && entry.name !== "Cargo.lock")
      .map((entry) => join(entry.parentPath, entry.name))
      .sort())
      hash.update(readFileSync(file));
  }
  return hash.digest("hex");
}

function make(part: Part): void {
  switch (part.kind) {
    case "debian": {
      const missing = part.packages.filter(
        (name) => !Bun.spawnSync(["dpkg-query", "-W", `-f=\${Status}`, name]).stdout.includes("ok installed"),
      );
      if (missing.length > 0)
        run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", ...missing], "/", {
          DEBIAN_FRONTEND: "noninteractive",
        });
      return;
    }
    case "python": {
      const place = join(CACHE, "python", part.name);
      run(["/usr/bin/python3", "-m", "venv", "--clear", place], CACHE);
      run(
        [
          join(place, "bin/python"),
          "-m",
          "pip",
          "install",
          "-q",
          "--only-binary=:all:",
          ...part.requirements,
        ],
        CACHE,
      );
      return;
    }
    case "go":
      mkdirSync(join(CACHE, "bin"), { recursive: true });
      run(
        ["go", "build", "-o", `${join(CACHE, "bin")}/`, "./sdk1", "./sdk2", "./minio"],
        join(FIXTURES, "go"),
        {
          CGO_ENABLED: "0",
        },
      );
      return;
    case "rust": {
      // Cargo writes its lock file, which names the registry, beside the manifest: so both are in the cache.
      const place = join(CACHE, "rust-source");
      cpSync(join(FIXTURES, "rust"), place, { recursive: true });
      run(["cargo", "build", "--release"], place, { CARGO_TARGET_DIR: join(CACHE, "rust") });
      return;
    }
    case "java": {
      const place = join(CACHE, "java");
      const jars = join(place, "jars");
      run(
        ["mvn", "-q", "-B", "dependency:copy-dependencies", `-DoutputDirectory=${jars}`],
        join(FIXTURES, "java"),
      );
      run(
        ["javac", "-cp", `${jars}/*`, "-d", place, "v1/ClientV1.java", "v2/ClientV2.java"],
        join(FIXTURES, "java"),
      );
      return;
    }
    case "js": {
      const place = join(CACHE, "js");
      cpSync(join(FIXTURES, "js"), place, { recursive: true });
      run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], place);
      return;
    }
  }
}

/** Makes every part that is not there; returns why not, by the part's name, for those that could not be had. */
export function installClients(say: (line: string) => void): Map<string, string> {
  mkdirSync(CACHE, { recursive: true });
  const lacking = new Map<string, string>();
  const parts = new Map(CLIENTS.map(({ part }) => [nameOf(part), part]));
  for (const [name, part] of parts) {
    const stamp = join(CACHE, `${name.replaceAll(" ", "+")}.made`);
    const digest = digestOf(part);
    if (part.kind !== "debian" && existsSync(stamp) && readFileSync(stamp, "utf8") === digest) continue;
    const tool = TOOLS[part.kind].find(([program]) => Bun.which(program) === null);
    if (tool !== undefined) {
      lacking.set(name, `there is no ${tool[0]} here; it comes with ${tool[1]}`);
    } else {
      try {
        say(`making ${name}`);
        make(part);
        writeFileSync(stamp, digest);
      } catch (error) {
        lacking.set(name, error instanceof Error ? error.message : String(error));
      }
    }
    if (lacking.has(name)) say(`without ${name}: ${lacking.get(name)}`);
  }
  return lacking;
}
