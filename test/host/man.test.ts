import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

/** The man pages of the executable in the programs that show them; both are among the tests' packages. */

const EXECUTABLE = resolve(import.meta.dir, "../../dist/imdsproxy");
const PAGES = ["imdsproxy.8", "imdsproxy-config.5"];

const run = (...argv: string[]) => {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv, {
    env: { PATH: "/usr/bin:/bin", LC_ALL: "C.UTF-8" },
  });
  return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
};

describe("the man pages", () => {
  let directory: string;
  const path = (name: string) => join(directory, name);
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "imdsproxy-man-"));
    for (const name of PAGES) {
      const { exitCode, stdout, stderr } = run(EXECUTABLE, "man", name);
      expect([exitCode, stderr]).toEqual([0, ""]);
      writeFileSync(path(name), stdout);
    }
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  for (const name of PAGES) {
    test(`${name}: mandoc's lint finds nothing`, () => {
      expect(run("mandoc", "-Tlint", "-W", "style", path(name))).toEqual({
        exitCode: 0,
        stdout: "",
        stderr: "",
      });
    });
    test(`${name}: groff shows it without a warning, in 80 columns but for lines to copy`, () => {
      const { exitCode, stdout, stderr } = run(
        "groff",
        "-man",
        "-ww",
        "-Tutf8",
        "-P-cbou",
        "-rLL=78n",
        path(name),
      );
      expect([exitCode, stderr]).toEqual([0, ""]);
      const lines = stdout.split("\n");
      expect(lines.length).toBeGreaterThan(100);
      for (const line of lines)
        if (!/^ +(?:sudo )?imdsproxy /.test(line)) expect(line.length).toBeLessThanOrEqual(80);
      // What is copied out of it works in a shell: a dash is a dash.
      expect(stdout).toMatch(name.endsWith("8") ? / --dry-run\n/ : /imdsproxy config check FILE/);
      expect(stdout).not.toMatch(/[\u2010\u2018\u2019]/);
    });
  }

  test("without a name it is the program's, and all of it arrives where somebody reads slowly", () => {
    // Four pages are more than a pipe holds, so that the last has to wait for its reader.
    const four = Array.from({ length: 4 }, () => `${EXECUTABLE} man`).join("; ");
    const read = run("sh", "-c", `{ ${four}; } | { read -r _; cat; }`).stdout;
    const page = readFileSync(path("imdsproxy.8"), "utf8");
    expect(4 * page.length).toBeGreaterThan(65_536);
    expect(read === page.repeat(4).slice(page.indexOf("\n") + 1)).toBe(true);
  });
});
