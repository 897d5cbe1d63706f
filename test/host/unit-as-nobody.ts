import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chownSync, cpSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

/**
 * `make unit` as nobody, in a copy of the clone that has no build. Not in `make test`, which runs all of these tests already;
 * `make unit-as-nobody` runs it, as root.
 */

const REPOSITORY = resolve(import.meta.dir, "../..");
const NOBODY = 65_534;

/** The files of a clone as git has them, with changes that are not committed. */
function files(): string[] {
  const listed = Bun.spawnSync(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    cwd: REPOSITORY,
  });
  return listed.stdout.toString().split("\0").filter(Boolean);
}

describe("make unit", () => {
  let tree: string;
  beforeAll(() => {
    tree = mkdtempSync(join(tmpdir(), "imdsproxy-unit-"));
    for (const file of files()) {
      mkdirSync(join(tree, dirname(file)), { recursive: true });
      cpSync(join(REPOSITORY, file), join(tree, file));
    }
    mkdirSync(join(tree, "node_modules"));
    mkdirSync(join(tree, "tmp"));
    chownSync(join(tree, "tmp"), NOBODY, NOBODY);
    Bun.spawnSync(["chmod", "-R", "a+rX", tree]);
  });
  afterAll(() => rmSync(tree, { recursive: true, force: true }));

  test("is green in a fresh clone as an ordinary user, who has no build and no root", () => {
    // The packages are lent to the clone in a mount namespace of its own: they may lie where nobody else can read.
    const script = `
      mount --bind "$1/node_modules" "$2/node_modules" && cd "$2" &&
      exec setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups --no-new-privs make --assume-old=node_modules/.installed unit`;
    const run = Bun.spawnSync(["unshare", "--mount", "sh", "-c", script, "sh", REPOSITORY, tree], {
      env: { PATH: "/usr/bin:/bin", HOME: join(tree, "tmp"), TMPDIR: join(tree, "tmp"), CI: "true" },
    });
    const output = `${run.stdout}${run.stderr}`;
    expect([run.exitCode, run.exitCode === 0 ? "" : output]).toEqual([0, ""]);
    expect(output).toMatch(/^ *0 fail$/m);
    expect(output).not.toMatch(/^ *\d+ (?:skip|todo)$/m);
    expect(Number(/^ *(\d+) pass$/m.exec(output)?.[1])).toBeGreaterThan(1_500);
  }, 1_200_000);
});
