import { afterAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";

/**
 * A build can be repeated: the executable of `make build` again from a copy of the tree, in another directory, of another name. A whole
 * release in two directories: make test-release.
 */

const REPOSITORY = resolve(import.meta.dir, "../..");
const EXECUTABLE = join(REPOSITORY, "dist/imdsproxy");
// On the file system of node_modules, for hard links.
const twin = join(REPOSITORY, `dist/.twin.${process.pid}/of another length`);
afterAll(() => rmSync(join(twin, ".."), { recursive: true, force: true }));

const sumOf = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");

test("the same commit and the same Bun give the same bytes in another directory", () => {
  const { commit, date } = JSON.parse(Bun.spawnSync([EXECUTABLE, "version", "--json"]).stdout.toString());
  mkdirSync(twin, { recursive: true });
  for (const name of ["src", "scripts", "package.json", "bun.lock", "tsconfig.json"])
    cpSync(join(REPOSITORY, name), join(twin, name), { recursive: true });
  // A copy, and no link: the bundler sees where a link leads.
  const copied = Bun.spawnSync(["cp", "-al", join(REPOSITORY, "node_modules"), twin]);
  expect([copied.exitCode, copied.stderr.toString()]).toEqual([0, ""]);
  const built = Bun.spawnSync([process.execPath, "scripts/build.ts"], {
    cwd: twin,
    env: {
      PATH: process.env["PATH"] ?? "",
      TZ: "Pacific/Auckland",
      LC_ALL: "C.UTF-8",
      IMDSPROXY_COMMIT: commit,
      SOURCE_DATE_EPOCH: String(Date.parse(`${date}T12:00:00Z`) / 1_000),
    },
  });
  expect([built.exitCode, built.stdout.toString(), built.stderr.toString()]).toEqual([0, "", ""]);
  expect(sumOf(join(twin, "dist/imdsproxy"))).toBe(sumOf(EXECUTABLE));
});
