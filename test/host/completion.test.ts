import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

/** The completions in the shells themselves. A shell that is not installed is skipped; the tests' packages have all three. */

const EXECUTABLE = resolve(import.meta.dir, "../../dist/imdsproxy");
let directory: string;
const path = (shell: string) => join(directory, shell);
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-completion-"));
  for (const shell of ["bash", "zsh", "fish"]) {
    writeFileSync(path(shell), Bun.spawnSync([EXECUTABLE, "completion", shell]).stdout);
  }
});
afterAll(() => rmSync(directory, { recursive: true }));

const run = (...argv: string[]) => {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv, {
    env: { PATH: "/usr/bin:/bin", HOME: directory },
  });
  return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
};

for (const shell of ["bash", "zsh", "fish"]) {
  test.skipIf(Bun.which(shell) === null)(`${shell} reads its script`, () => {
    expect(run(shell, "-n", path(shell))).toEqual({ exitCode: 0, stdout: "", stderr: "" });
  });
}

/** What follows a line, in its order; a space at its end begins a new word. */
const LINES: [line: string, words: string[]][] = [
  ["imdsproxy stat", ["status"]],
  ["imdsproxy iptables ap", ["apply"]],
  ["imdsproxy iptables apply --dr", ["--dry-run"]],
  ["imdsproxy --config /etc/x iptables apply --dr", ["--dry-run"]],
  ["imdsproxy explain ro", ["root"]],
  ["imdsproxy explain --config /etc/passw", ["/etc/passwd"]],
  ["imdsproxy demo-p", []],
];

describe("bash completes", () => {
  const complete = (line: string) => {
    const words = line.split(" ");
    const script = `source ${path("bash")}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _imdsproxy; printf '%s\\n' "\${COMPREPLY[@]}"`;
    return run("bash", "--norc", "-c", script, "bash", ...words)
      .stdout.split("\n")
      .filter((word) => word !== "");
  };
  for (const [line, words] of LINES) {
    test(line, () => {
      const found = complete(line);
      for (const word of words) expect(found).toContain(word);
      if (words.length === 0) expect(found).toEqual([]);
    });
  }
});

describe.skipIf(Bun.which("script") === null)("bash, on a terminal, completes what a user named", () => {
  /** A directory with one file, where somebody types a line and the keys Tab and Enter. script(1) makes the terminal. */
  const typed = (file: string, line: string) => {
    const place = mkdtempSync(join(directory, "place-"));
    writeFileSync(join(place, file), "");
    const script = ["script", "-qec", "bash --norc --noprofile -i", "/dev/null"];
    const { stdout } = Bun.spawnSync(script, {
      cwd: place,
      env: { PATH: "/usr/bin:/bin", HOME: directory, TERM: "dumb" },
      timeout: 40_000,
      stdin: Buffer.from(
        `source ${path("bash")}; imdsproxy() { printf 'got<%s>\\n' "$@"; }\n${line}\t\nexit\n`,
      ),
    });
    return { said: stdout.toString(), left: readdirSync(place) };
  };

  for (const line of ["imdsproxy config check a", "imdsproxy explain --config a"]) {
    test(`${line}: as one word, and runs nothing`, () => {
      const file = "a;touch pwned;echo $(touch pwned2)";
      const { said, left } = typed(file, line);
      expect(left).toEqual([file]);
      expect(said).toContain(`got<${file}>`);
    });
  }
});

describe.skipIf(Bun.which("fish") === null)("fish completes", () => {
  for (const [line, words] of LINES) {
    test(line, () => {
      const script = `source ${path("fish")}; complete -C '${line}'`;
      const found = run("fish", "--no-config", "-c", script)
        .stdout.split("\n")
        .map((one) => one.split("\t")[0] ?? "")
        .filter((word) => word !== "");
      for (const word of words) expect(found).toContain(word);
      if (words.length === 0) expect(found).toEqual([]);
    });
  }
});
