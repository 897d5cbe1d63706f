import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createHash, generateKeyPairSync, type KeyObject } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { pinOf, signatureOf } from "../../scripts/release/signature.ts";
import { writeRelease } from "../../scripts/release.ts";

/**
 * install.sh and the signature of a release, by the openssl of this machine. Root's id and the scratch directory are stand-ins, and so is
 * the executable, which writes down how it was called. What install.sh does on a node is in test/boot/scripts.test.ts.
 */

const INSTALL = resolve(import.meta.dir, "../../scripts/install.sh");
const NAMES = ["imdsproxy-linux-x64", "imdsproxy-linux-x64-baseline", "imdsproxy-linux-arm64"];
const EXECUTABLE = '#!/bin/sh\necho "called $*" >>"$CALLS"; echo "imdsproxy stand-in"\n';

const newKey = (namedCurve = "prime256v1"): KeyObject => generateKeyPairSync("ec", { namedCurve }).privateKey;
const pemOf = (key: KeyObject): string => pinOf(key).replace(/.{1,64}/g, "$&\n");
const KEY = newKey();
const PIN = pinOf(KEY);

let directory: string;
const path = (name: string): string => join(directory, name);
const sumOf = (name: string): string =>
  createHash("sha256")
    .update(readFileSync(path(`release/${name}`)))
    .digest("hex");

/** Publishes a release. @param key null: one that is not signed. */
function publish(key: KeyObject | null, executable = EXECUTABLE): void {
  const executables = NAMES.map((name) => ({ name, bytes: Buffer.from(executable) }));
  writeRelease(path("release"), executables, [], key ?? undefined);
}

/** Runs install.sh in `cwd`, below the test's directory. */
function install(args: readonly string[], env: Readonly<Record<string, string>> = {}, cwd = ".") {
  const { exitCode, stderr } = Bun.spawnSync(["sh", INSTALL, ...args], {
    cwd: path(cwd),
    env: { PATH: `${path("bin")}:/usr/bin:/bin`, CALLS: path("calls"), ...env },
  });
  const calls = existsSync(path("calls")) ? readFileSync(path("calls"), "utf8") : "";
  return { exitCode, stderr: stderr.toString(), calls };
}
const INSTALLED = { exitCode: 0, stderr: "", calls: "called --version\ncalled setup --role-arn ARN\n" };
const signedBy = (pin: string): string[] => [
  "--from",
  path("release/"),
  "--public-key",
  pin,
  "--role-arn",
  "ARN",
];

/** It ended with 1 and one line, and nothing of the release was run. */
function refused(found: ReturnType<typeof install>, says: string | RegExp): void {
  expect([found.exitCode, found.calls]).toEqual([1, ""]);
  expect(found.stderr).toMatch(/^install\.sh: .*\n$/);
  expect(found.stderr).toMatch(says);
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-install-"));
  mkdirSync(path("scratch"));
  mkdirSync(path("bin"));
  for (const [name, text] of [
    ["id", "echo 0"],
    ["mktemp", `exec /usr/bin/mktemp -d "${path("scratch")}/XXXXXX"`],
    // The URL is on its standard input; the file of that name is in the release.
    [
      "curl",
      `while [ $# -gt 0 ]; do [ "$1" = --output ] && to=$2; shift; done; url=$(cat); url=\${url%\\"}; exec cp "${directory}/release/\${url##*/}" "$to"`,
    ],
  ] as const) {
    writeFileSync(path(`bin/${name}`), `#!/bin/sh\n${text}\n`);
    chmodSync(path(`bin/${name}`), 0o755);
  }
});
afterEach(() => {
  expect(Bun.spawnSync(["ls", "-A", path("scratch")]).stdout.toString()).toBe("");
  rmSync(directory, { recursive: true });
});

describe("install.sh takes a release that is signed by the key which is pinned", () => {
  beforeEach(() => publish(KEY));
  test("in one line", () => expect(install(signedBy(PIN))).toEqual(INSTALLED));
  test("in the environment", () =>
    expect(install(["--from", path("release"), "--role-arn", "ARN"], { IMDSPROXY_PUBLIC_KEY: PIN })).toEqual(
      INSTALLED,
    ));
  test("in a file", () => {
    writeFileSync(path("key.pem"), `-----BEGIN PUBLIC KEY-----\n${pemOf(KEY)}-----END PUBLIC KEY-----\n`);
    for (const file of [path("key.pem"), "./key.pem"]) {
      rmSync(path("calls"), { force: true });
      expect(install(signedBy(file))).toEqual(INSTALLED);
    }
  });
  test("over plain http, without another digest", () =>
    expect(install(["--from", "http://127.0.0.1:9/r/", `--public-key=${PIN}`, "--role-arn", "ARN"])).toEqual(
      INSTALLED,
    ));
  test("with the digest of its file as well", () =>
    expect(
      install(
        [...signedBy(PIN), "--sha256"]
          .slice(0, 4)
          .concat("--sha256", sumOf(fileForThisMachine()), "--role-arn", "ARN"),
      ),
    ).toEqual(INSTALLED));
  test("and the file that is not compressed where there is no other", () => {
    const sums = readFileSync(path("release/SHA256SUMS"), "utf8").replaceAll(/^.*\.gz\n/gm, "");
    writeFileSync(path("release/SHA256SUMS"), sums);
    writeFileSync(path("release/SHA256SUMS.sig"), signatureOf(sums, KEY));
    for (const name of NAMES) rmSync(path(`release/${name}.gz`));
    expect(install(signedBy(PIN))).toEqual(INSTALLED);
  });
});

/** What install.sh asks for here, as it finds it. */
const fileForThisMachine = (): string => {
  if (process.arch === "arm64") return "imdsproxy-linux-arm64.gz";
  const hasAvx2 = /\bavx2\b/.test(readFileSync("/proc/cpuinfo", "utf8"));
  return `imdsproxy-linux-x64${hasAvx2 ? "" : "-baseline"}.gz`;
};

describe("install.sh refuses, and runs nothing of it,", () => {
  test("a release without a signature", () => {
    publish(null);
    refused(install(signedBy(PIN)), /there is no file .*SHA256SUMS\.sig/);
  });
  test("a release that another key signed", () => {
    publish(newKey());
    refused(install(signedBy(PIN)), "is not signed by the key of --public-key");
  });
  test("a file that was exchanged, and its sum with it", () => {
    publish(KEY);
    const signature = readFileSync(path("release/SHA256SUMS.sig"));
    publish(null, `${EXECUTABLE}# evil\n`);
    writeFileSync(path("release/SHA256SUMS.sig"), signature);
    refused(install(signedBy(PIN)), "is not signed by the key of --public-key");
  });
  test("a file that was exchanged alone, also with its own digest given", () => {
    publish(KEY);
    const name = fileForThisMachine();
    writeFileSync(path(`release/${name}`), gzipSync(`${EXECUTABLE}# evil\n`));
    refused(install(signedBy(PIN)), "nothing was installed");
    refused(install(["--sha256", sumOf(name), ...signedBy(PIN)]), "and SHA256SUMS has");
  });
  for (const [what, change] of [
    ["cut off", (bytes: Buffer) => bytes.subarray(0, -1)],
    ["empty", () => Buffer.alloc(0)],
    ["of zeros", (bytes: Buffer) => Buffer.alloc(bytes.length)],
    ["text", () => Buffer.from("OK\n")],
  ] as const) {
    test(`a signature that is ${what}`, () => {
      publish(KEY);
      const file = path("release/SHA256SUMS.sig");
      writeFileSync(file, change(readFileSync(file)));
      refused(install(signedBy(PIN)), "is not signed by the key of --public-key");
    });
  }
  test("a signature where the key is empty: a variable that was not set", () => {
    publish(KEY);
    refused(install(signedBy("")), "--public-key is empty");
    refused(install(["--from", path("release/"), "--public-key="]), "--public-key is empty");
    refused(install(["--from", path("release/")], { IMDSPROXY_PUBLIC_KEY: "" }), "--public-key is empty");
  });
  test("a key that is none, and one that is not there", () => {
    publish(KEY);
    refused(install(signedBy("bm9uZQ==")), "no public key that openssl can read");
    refused(install(signedBy("key.pem")), "must begin with / or ./");
    refused(install(signedBy("./key.pem")), "there is no file ./key.pem");
    refused(install(signedBy("$(touch x)\n")), "is no base64");
    expect(existsSync(path("x"))).toBe(false);
  });
  test("a key that stands behind an option of setup, whose program would have run before it is refused", () => {
    publish(null);
    for (const late of [
      ["--public-key", PIN],
      [`--public-key=${PIN}`],
      ["--sha256", "0".repeat(64)],
      ["--from=/x/"],
    ])
      refused(
        install(["--from", path("release/"), "--role-arn", "ARN", ...late]),
        "must stand before the options",
      );
  });
  test("a key over one file alone, over which there is no signature", () => {
    publish(KEY);
    refused(
      install([
        "--from",
        path(`release/${NAMES[0]}`),
        "--sha256",
        sumOf(NAMES[0] ?? ""),
        "--public-key",
        PIN,
      ]),
      "--public-key needs --from DIRECTORY",
    );
  });
  test("a key where there is no openssl", () => {
    publish(KEY);
    for (const program of ["sh", "cat", "cp", "rm", "find", "mkdir", "uname", "grep"]) {
      writeFileSync(path(`bin/${program}`), `#!/bin/sh\nexec ${Bun.which(program)} "$@"\n`, { mode: 0o755 });
    }
    refused(install(signedBy(PIN), { PATH: path("bin") }), "needs openssl");
  });
  test("the key of whoever made a file by the key's own name where it runs", () => {
    const mallory = newKey();
    publish(mallory);
    // Base64 has slashes, so that it is the path of a file, too.
    for (const pin of [PIN, ...Array.from({ length: 2 }, () => pinOf(newKey()))]) {
      mkdirSync(dirname(path(`tmp/${pin}`)), { recursive: true });
      writeFileSync(
        path(`tmp/${pin}`),
        `-----BEGIN PUBLIC KEY-----\n${pemOf(mallory)}-----END PUBLIC KEY-----\n`,
      );
      refused(install(signedBy(pin), {}, "tmp"), "is not signed by the key of --public-key");
    }
  });
});
