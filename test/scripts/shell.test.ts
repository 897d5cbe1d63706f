import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const REPOSITORY = resolve(import.meta.dir, "../..");

/** Runs a script of ours with stubs for the programs that it calls; they come first on PATH. */
function runWith(
  script: string[],
  stubs: Readonly<Record<string, string>>,
  env: Record<string, string> = {},
) {
  const directory = mkdtempSync(join(tmpdir(), "imdsproxy-stubs-"));
  try {
    for (const [name, text] of Object.entries(stubs)) {
      writeFileSync(join(directory, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    }
    const path = `${directory}:${process.env["PATH"] ?? ""}`;
    const run = Bun.spawnSync(script, { cwd: REPOSITORY, env: { ...process.env, ...env, PATH: path } });
    const stdout = run.stdout.toString();
    return {
      exitCode: run.exitCode,
      stdout,
      stderr: run.stderr.toString(),
      last: stdout.trimEnd().split("\n").at(-1),
    };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

describe(".ci/run", () => {
  const summary = (...lines: string[]) =>
    `cat <<'X' >&2\n\n${lines.join("\n")}\nRan 3 tests across 2 files. [1.00ms]\nX\n`;
  const ends: [name: string, make: string, last: string, exitCode: number][] = [
    ["counts what passed", summary(" 12 pass", " 0 fail"), "12 passed, 0 failed", 0],
    ["fails with the tests", `${summary(" 11 pass", " 2 fail")}exit 2`, "11 passed, 2 failed", 1],
    [
      "reads a coloured summary",
      summary("\x1b[0m\x1b[32m 12 pass\x1b[0m", "\x1b[2m 0 fail\x1b[0m"),
      "12 passed, 0 failed",
      0,
    ],
    [
      "takes a skip for a failure",
      summary(" 12 pass", " 1 skip", " 2 todo", " 0 fail"),
      "12 passed, 3 failed",
      1,
    ],
    ["fails when the lint or the build does", "echo 'error: types' >&2; exit 2", "0 passed, 1 failed", 1],
    [
      "fails when the runner fails beside its tests",
      `${summary(" 12 pass", " 0 fail")}exit 1`,
      "12 passed, 1 failed",
      1,
    ],
    ["fails when the runner breaks off", "printf ' 5 pass\\n'; exit 139", "0 passed, 1 failed", 1],
    ["fails when nothing ran", summary(" 0 pass", " 0 fail"), "0 passed, 1 failed", 1],
    [
      "is not misled by a test's own output",
      `echo ' 99 pass'; echo ' 99 skip'\n${summary(" 1 pass", " 0 fail")}`,
      "1 passed, 0 failed",
      0,
    ],
  ];
  for (const [name, make, last, exitCode] of ends) {
    test(name, () => expect(runWith([".ci/run"], { make })).toMatchObject({ last, exitCode }));
  }

  test("calls the tests as the README does, and lets no test skip itself", () => {
    const { stdout } = runWith([".ci/run"], { make: 'echo "make $* CI=$CI"' });
    expect(stdout).toContain("make check test CI=true");
  });
});

describe("install-test-packages.sh", () => {
  const script = ["sh", "scripts/install-test-packages.sh"];
  const none = { "dpkg-query": "exit 1" };
  const all = { "dpkg-query": "printf 'ii '" };
  const noInstall = { "apt-get": "echo apt-get was called; exit 9", sudo: 'echo sudo was called: "$@"' };

  test("does nothing where everything is there", () => {
    expect(runWith(script, { ...all, ...noInstall })).toMatchObject({ exitCode: 0, stdout: "", stderr: "" });
  });

  test("without root says what it would install, and asks sudo", () => {
    const ran = runWith([...script, "--demo"], { ...none, ...noInstall, id: "echo 1000" });
    expect(ran.stderr).toContain("installing iptables iproute2 needs root; asking sudo");
    expect(ran.stdout).toContain("sudo was called: sh scripts/install-test-packages.sh --demo");
  });

  test("refuses what it does not know", () => {
    const ran = runWith([...script, "--everything"], { ...all, ...noInstall });
    expect(ran.exitCode).toBe(2);
    expect(ran.stderr).toContain("--demo or nothing");
  });
});
