import { describe, expect, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, normalize } from "node:path";
import { OPT_IN } from "../scripts/run-tests.ts";

/**
 * What `make unit` runs needs neither root nor the built executable nor a program that a plain Debian has not.
 * `make unit-as-nobody` runs it as an ordinary user; this is what a contributor is told at once.
 */

const makefile = readFileSync("Makefile", "utf8");
/** The folders that `make unit` leaves out, as the Makefile has them: `test/node/`. */
const leftOut = (/^NOT_UNIT := (.*)$/m.exec(makefile)?.[1] ?? "").split(" ");

const all = readdirSync("test", { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".ts"))
  .map((name) => join("test", name));
const isUnit = (file: string) => !leftOut.some((folder) => file.startsWith(folder));
const unit = all.filter((file) => file.endsWith(".test.ts") && isUnit(file));

/** The file and what it imports of test/, and that of theirs. */
function withSupport(file: string): string[] {
  const found = new Set([file]);
  for (const one of found) {
    for (const [, name = ""] of readFileSync(one, "utf8").matchAll(/\bfrom "(\.[^"]+)"/g)) {
      const path = normalize(join(dirname(one), name));
      if (path.startsWith("test/") && existsSync(path)) found.add(path);
    }
  }
  return [...found];
}

describe("make unit", () => {
  test("leaves out the folders that it says, which are there, and no more than a third of the files", () => {
    expect(leftOut.slice(0, 4)).toEqual(["test/attack/", "test/boot/", "test/host/", "test/node/"]);
    for (const folder of leftOut.slice(0, 4)) expect([folder, existsSync(folder)]).toEqual([folder, true]);
    // Those that `make test` does not run either.
    expect(leftOut.slice(4)).toEqual(OPT_IN.map((name) => `test/${name}/`));
    expect(unit.length).toBeGreaterThan(70);
  });

  const NEEDS: [what: string, pattern: RegExp, why: string][] = [
    ["root", /\bdescribeAsRoot\b|\bget(?:eu|u)id\b/, "it runs as whoever called it"],
    [
      "another user",
      /\bspawn(?:Sync)?\(\s*\[\s*"(?:sudo|su|setpriv|unshare|nsenter|ip|iptables|nft)"/,
      "that needs root",
    ],
    ["the built executable", /["'`/]dist\/imdsproxy(?!-)["'`]/, "make unit builds nothing"],
    ["an optional program", /\bBun\.which\(|\/usr\/bin\/(?:python3|aws)\b/, "make unit installs no packages"],
    [
      "CI",
      /process\.env\["CI"\]|describe\.if|skipIf/,
      "what is skipped on one machine is green there for nothing",
    ],
  ];
  for (const [what, pattern, why] of NEEDS) {
    test(`has no file that asks for ${what}: ${why}`, () => {
      const found = unit.flatMap((file) =>
        withSupport(file)
          .filter((one) => one !== "test/unit-set.test.ts" && pattern.test(readFileSync(one, "utf8")))
          .map((one) => (one === file ? file : `${file} by ${one}`)),
      );
      expect(found).toEqual([]);
    });
  }

  test("the search finds what it looks for in the folders that are left out", () => {
    const others = all.filter((file) => file.endsWith(".test.ts") && !isUnit(file));
    for (const [what, pattern] of NEEDS) {
      const found = others.some((file) =>
        withSupport(file).some((one) => pattern.test(readFileSync(one, "utf8"))),
      );
      expect([what, found]).toEqual([what, true]);
    }
  });
});

describe("what make does first", () => {
  /** What `make TARGET` would run in a tree in which each file has the age that it is given, in seconds. */
  function commands(target: string, ages: Readonly<Record<string, number>>): string {
    const tree = mkdtempSync(join(tmpdir(), "imdsproxy-make-"));
    try {
      copyFileSync("Makefile", join(tree, "Makefile"));
      for (const [path, ageS] of Object.entries(ages)) {
        mkdirSync(join(tree, dirname(path)), { recursive: true });
        writeFileSync(join(tree, path), "");
        const at = Date.now() / 1000 - ageS;
        utimesSync(join(tree, path), at, at);
      }
      const { stdout, stderr, exitCode } = Bun.spawnSync(
        ["make", "--dry-run", "--no-print-directory", target, "TESTS=test/x.test.ts"],
        { cwd: tree, env: { PATH: process.env["PATH"] ?? "" } },
      );
      expect([exitCode, stderr.toString()]).toEqual([0, ""]);
      return stdout.toString();
    } finally {
      rmSync(tree, { recursive: true });
    }
  }
  const built = {
    "package.json": 90,
    "bun.lock": 90,
    "scripts/bootstrap.sh": 90,
    "node_modules/.installed": 80,
    "scripts/build.ts": 90,
    "src/main.ts": 70,
    "src/deep/er/part.ts": 70,
    "dist/imdsproxy": 60,
    "test/x.test.ts": 1,
  };
  const BUILD = "scripts/build.ts";

  test("make test TESTS=… builds nothing where only tests have changed", () => {
    expect(commands("test", built)).not.toContain(BUILD);
    expect(commands("test", built)).toContain("run-tests.ts test/x.test.ts");
  });
  for (const path of ["src/main.ts", "src/deep/er/part.ts", "scripts/build.ts", "package.json"]) {
    test(`make test TESTS=… builds where ${path} has changed`, () => {
      expect(commands("test", { ...built, [path]: 1 })).toContain(BUILD);
    });
  }
  test("make unit builds nothing, and installs no Debian packages, where nothing was built", () => {
    const { "dist/imdsproxy": _, ...fresh } = built;
    for (const ages of [fresh, { ...built, "src/main.ts": 1 }]) {
      expect(commands("unit", ages)).not.toMatch(/build\.ts|install-test-packages/);
      expect(commands("unit", ages)).toContain("test/x.test.ts");
    }
  });
  test("make unit takes nothing of CI's settings", () =>
    expect(commands("unit", built)).toContain("env -u CI "));
});
