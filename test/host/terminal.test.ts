import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { writeObserved } from "../../src/observe/record.ts";
import { named } from "../observe/support.ts";
import { describeAsRoot } from "../support/root.ts";

/** The built executable in a terminal of 80 columns, which script(1) makes: a longer line would be broken in the middle of a word. */

const EXECUTABLE = resolve(import.meta.dir, "../../dist/imdsproxy");
const COLUMNS = 80;

/** What the terminal is given, as lines without colours. */
function typed(command: string): string[] {
  const inside = `stty cols ${COLUMNS} rows 24; ${EXECUTABLE} ${command}`;
  const { stdout } = Bun.spawnSync(["script", "--quiet", "--command", inside, "/dev/null"], {
    env: { PATH: "/usr/bin:/bin", TERM: "xterm", SHELL: "/bin/sh" },
    cwd: "/",
  });
  return stdout
    .toString()
    .replaceAll(/\u001b\[[\d;]*m/g, "")
    .split(/\r*\n/);
}

test("errors and warnings of commands fit a terminal of 80 columns, and lose nothing", () => {
  const directory = mkdtempSync(join(tmpdir(), "imdsproxy-terminal-"));
  try {
    const role = "arn:aws:iam::123456789012:role/R";
    const file = join(directory, "c.yaml");
    const users = Array.from({ length: 2 }, (_, at) => `nobody-is-called-so-${at}`).join(", ");
    writeFileSync(
      file,
      `role: ${role}\nrules:\n  - { name: a rule with a long name that says much, match: { user: [${users}] }, role: ${role} }\n`,
    );
    const cases: [command: string, says: string][] = [
      ["doctor explain nosuch", "one of direct-access, instance-role"],
      ["nosuch", "commands: serve, status"],
      [`config check ${file}`, "getent passwd nobody-is-called-so-1"],
      ["config sign", "see imdsproxy config sign --help"],
    ];
    for (const [command, says] of cases) {
      const lines = typed(command);
      expect([command, lines.filter((line) => line.length > COLUMNS)]).toEqual([command, []]);
      expect(lines.map((line) => line.trim()).join(" ")).toContain(says);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
});

describeAsRoot("a cgroup whose name, made by a user, is a command for a terminal,", () => {
  test("does nothing there in observe --show --json, and is the same for a program", () => {
    // U+009B is CSI (ECMA-48) in one letter, which JSON leaves as it is; U+202E turns the text behind it around.
    const cgroup = "/user.slice/user-2001.slice/\u009b2J\u202e";
    const directory = mkdtempSync(join(tmpdir(), "imdsproxy-terminal-"));
    try {
      const file = join(directory, "observed.json");
      const runs = [{ fromMs: 1, toMs: 2, missed: 0 }];
      writeObserved(file, { node: "node", runs, callers: [named("alice", { cgroup })] });
      const { stdout } = Bun.spawnSync([EXECUTABLE, "observe", "--show", "--json", "--file", file]);
      expect(stdout.toString()).not.toMatch(/[\u0080-\u009f\u202e]/);
      expect(JSON.parse(stdout.toString()).callers[0].cgroup).toBe(cgroup);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
