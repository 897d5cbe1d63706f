import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

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
