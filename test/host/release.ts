import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { generateKeyPairSync } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pinOf, signingKey } from "../../scripts/release/signature.ts";

/**
 * `make test-release`: a release built twice, in two directories, with every target. Needs a registry for the Bun of each target, and
 * VALIDATOR, a Python with cyclonedx-python-lib[json-validation]. CI does not run it: it takes minutes.
 */

const REPOSITORY = resolve(import.meta.dir, "../..");
const TWINS = join(REPOSITORY, `dist/.twins.${process.pid}`);
const NAMES = ["first", "second of another length"];
const folder = (name = NAMES[0] ?? "") => join(TWINS, name, "dist/release");
const git = (...args: string[]) =>
  Bun.spawnSync(["git", ...args], { cwd: REPOSITORY })
    .stdout.toString()
    .trim();

const pem = generateKeyPairSync("ec", { namedCurve: "prime256v1" })
  .privateKey.export({ type: "pkcs8", format: "pem" })
  .toString();
const COMMIT = git("rev-parse", "--short=12", "HEAD");
let said = "";

function copy(name: string): void {
  const tree = join(TWINS, name);
  mkdirSync(tree, { recursive: true });
  for (const part of ["src", "scripts", "docs", "package.json", "bun.lock", "tsconfig.json", "LICENSE"])
    cpSync(join(REPOSITORY, part), join(tree, part), { recursive: true });
  expect(Bun.spawnSync(["cp", "-al", join(REPOSITORY, "node_modules"), tree]).exitCode).toBe(0);
}

function build(name: string): void {
  const tree = join(TWINS, name);
  const built = Bun.spawnSync([process.execPath, "scripts/build.ts", "--release"], {
    cwd: tree,
    env: {
      ...process.env,
      IMDSPROXY_COMMIT: COMMIT,
      SOURCE_DATE_EPOCH: git("log", "-1", "--format=%ct"),
      SIGNING_KEY: join(TWINS, "key.pem"),
    },
  });
  expect([built.exitCode, built.stderr.toString()]).toEqual([0, ""]);
  said = built.stdout.toString();
}

describe("a release", () => {
  beforeAll(() => {
    // Both copies first: somebody may work in the tree meanwhile.
    for (const name of NAMES) copy(name);
    writeFileSync(join(TWINS, "key.pem"), pem, { mode: 0o600 });
    for (const name of NAMES) build(name);
  }, 1_200_000);
  afterAll(() => rmSync(TWINS, { recursive: true, force: true }), 60_000);

  test("is the same bytes in two directories, but for the signature", () => {
    const files = readdirSync(folder()).sort();
    expect(readdirSync(folder(NAMES[1])).sort()).toEqual(files);
    const differ = files.filter(
      (file) => !readFileSync(join(folder(), file)).equals(readFileSync(join(folder(NAMES[1]), file))),
    );
    expect(differ).toEqual(["SHA256SUMS.sig"]);
    expect(files.length).toBe(20);
    console.log(
      files
        .map((file) => `${readFileSync(join(folder(), file)).length.toString().padStart(10)} ${file}`)
        .join("\n"),
    );
  });

  test("has sums that hold, signed by the key whose public half the build prints", () => {
    const run = (...argv: string[]) => {
      const { exitCode, stdout } = Bun.spawnSync(argv, { cwd: folder() });
      return [exitCode, stdout.toString()] as const;
    };
    expect(run("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")).toEqual([0, ""]);
    const pin = pinOf(signingKey(pem, "KEY"));
    expect(said).toContain(`--public-key ${pin}\n`);
    const key = `-----BEGIN PUBLIC KEY-----\n${pin.replace(/.{1,64}/g, "$&\n")}-----END PUBLIC KEY-----\n`;
    writeFileSync(join(TWINS, "pin.pem"), key);
    const verify = [
      "openssl",
      "dgst",
      "-sha256",
      "-verify",
      join(TWINS, "pin.pem"),
      "-signature",
      "SHA256SUMS.sig",
    ];
    expect(run(...verify, "SHA256SUMS")).toEqual([0, "Verified OK\n"]);
  });

  test("has executables for what their names say, of this commit", () => {
    // e_machine of the ELF header, at 18 (elf.h): 62 is x86-64, 183 AArch64.
    const machine = (name: string) => readFileSync(join(folder(), name)).readUInt16LE(18);
    expect(["x64", "x64-baseline", "arm64"].map((name) => machine(`imdsproxy-linux-${name}`))).toEqual([
      62, 62, 183,
    ]);
    for (const target of ["linux-x64", "linux-x64-baseline"]) {
      const { stdout } = Bun.spawnSync([join(folder(), `imdsproxy-${target}`), "version", "--json"]);
      expect(JSON.parse(stdout.toString())).toMatchObject({ target, commit: COMMIT, bun: Bun.version });
    }
  });

  test("has a list of parts that another program takes for CycloneDX 1.6", () => {
    const script = `
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(str(problem) if problem else 0)`;
    const validator = process.env["VALIDATOR"] ?? "python3";
    const ran = Bun.spawnSync([validator, "-c", script, join(folder(), "imdsproxy.cdx.json")]);
    expect([ran.exitCode, ran.stderr.toString()]).toEqual([0, ""]);
  });
});
