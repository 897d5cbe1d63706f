import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EXECUTABLE } from "../support/node.ts";

const env = { PATH: "/usr/bin:/bin" };

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-output-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const file = (name: string, text: string | Uint8Array): string => {
  writeFileSync(join(directory, name), text);
  return join(directory, name);
};

describe("what a command prints", () => {
  for (const args of [
    ["config", "schema"],
    ["man"],
    ["completion", "bash"],
    ["version"],
    ["config", "--help"],
    ["help", "rules"],
  ]) {
    test(`${args.join(" ")}: on a full disk it is no success, and says why`, async () => {
      const full = openSync("/dev/full", "w");
      const child = Bun.spawn([EXECUTABLE, ...args], { env, stdout: full, stderr: "pipe" });
      const said = await new Response(child.stderr).text();
      closeSync(full);
      expect([await child.exited, said]).toEqual([1, expect.stringContaining("ENOSPC")]);
    });
  }

  test("a reader that has seen enough is no failure", () => {
    const command = '{ "$0" config schema; echo "ended with $?" >&2; } | head -c 1';
    const { stdout, stderr } = Bun.spawnSync(["sh", "-c", command, EXECUTABLE], { env });
    expect([stdout.toString(), stderr.toString()]).toEqual(["{", "ended with 0\n"]);
  });

  test("an error holds nothing that a terminal could take for a command, also in a file that is read on one later", () => {
    const path = file("escape.yaml", '"\\e]0;owned\\a\\u009b31m\\u202e": 1\nrole: "\\e[2J"\n');
    const { exitCode, stderr } = Bun.spawnSync([EXECUTABLE, "config", "check", path], { env });
    const said = stderr.toString();
    expect(exitCode).toBe(2);
    expect(said).toContain("is not a known key");
    expect(said.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\u202e]/u);
  });
});

describe("a configuration that is none is refused in words:", () => {
  const cases: [string, () => string, string][] = [
    ["a directory", () => directory, "it is a directory"],
    ["a device without an end", () => "/dev/zero", "it has more than 16 MiB"],
    [
      "a file within a file",
      () => `${file("plain.yaml", "{}")}/config.yaml`,
      "a part of its path is no directory",
    ],
    [
      "two documents",
      () => file("two.yaml", "role: null\n---\nrole: null\n"),
      "two.yaml:2:1: a second document begins here",
    ],
    [
      "bytes that are no text",
      () =>
        file(
          "bytes.yaml",
          Uint8Array.from({ length: 3_000 }, (_, i) => (i * 167) % 256),
        ),
      "bytes.yaml:",
    ],
  ];
  for (const [what, path, expected] of cases) {
    test(what, () => {
      const { exitCode, stdout, stderr } = Bun.spawnSync([EXECUTABLE, "config", "check", path()], { env });
      expect([exitCode, stdout.toString()]).toEqual([2, ""]);
      expect(stderr.toString()).toContain(expected);
      expect(stderr.toString()).not.toContain("internal error");
    });
  }
  test("one that comes through a pipe is read like a file", () => {
    const { exitCode, stdout } = Bun.spawnSync([EXECUTABLE, "config", "check", "/dev/stdin"], {
      env,
      stdin: Buffer.from("rules: []\n"),
    });
    expect([exitCode, stdout.toString()]).toEqual([0, expect.stringContaining("is good")]);
  });
});
