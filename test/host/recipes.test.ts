import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { isRoot } from "../support/root.ts";

/** The recipes of CONTRIBUTING.md, followed to the letter. */

const REPOSITORY = resolve(import.meta.dir, "../..");

type Place = "after" | "before" | "new";
interface Step {
  readonly file: string;
  readonly place: Place;
  /** The line beside which the text goes, or its beginning; empty for a new file. */
  readonly line: string;
  readonly isBeginning: boolean;
  readonly text: string;
}
interface Recipe {
  readonly name: string;
  readonly steps: readonly Step[];
  /** What `make unit` and, as root, `make test` are given. */
  readonly unit: readonly string[];
  readonly root: readonly string[];
}

const STEP =
  /^\d+\. In `([^`]+)`, (?:a new file,.*|(after|before) the line (that begins with )?`(.+?)`, (?:add|say|name).*:)\n?.*?\n\n```\n([\s\S]*?)^```$/gm;

function recipes(): Recipe[] {
  const text = readFileSync(join(REPOSITORY, "CONTRIBUTING.md"), "utf8").split("\n## Recipes\n")[1] ?? "";
  return text
    .split(/^### /m)
    .slice(1)
    .map((section) => {
      const steps = [...section.matchAll(STEP)].map(
        ([, file = "", place, beginning, line = "", added = ""]): Step => ({
          file,
          place: (place ?? "new") as Place,
          line,
          isBeginning: beginning !== undefined,
          text: added,
        }),
      );
      const numbered = section.match(/^\d+\. /gm)?.length ?? 0;
      const name = section.split("\n")[0] ?? "";
      // A step that is not understood would be a step that nobody tries.
      expect([name, steps.length]).toEqual([name, numbered]);
      const of = (target: string) =>
        [...section.matchAll(new RegExp(`\`make ${target} TESTS="?([^"\`]+)"?\``, "g"))].flatMap(
          ([, paths = ""]) => paths.split(" "),
        );
      return { name, steps, unit: of("unit"), root: of("test") };
    });
}

function follow(tree: string, { file, place, line, isBeginning, text }: Step): void {
  const path = join(tree, file);
  if (place === "new") {
    expect([file, existsSync(path)]).toEqual([file, false]);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return;
  }
  const lines = readFileSync(path, "utf8").split("\n");
  const fits = (one: string) => (isBeginning ? one.startsWith(line) : one === line);
  // One place and no other.
  expect([file, line, lines.filter(fits).length]).toEqual([file, line, 1]);
  const at = lines.findIndex(fits) + Number(place === "after");
  lines.splice(at, 0, ...text.replace(/\n$/, "").split("\n"));
  writeFileSync(path, lines.join("\n"));
}

describe("the recipes of CONTRIBUTING.md", () => {
  let tree: string;
  const all = recipes();
  beforeAll(() => {
    tree = mkdtempSync(join(tmpdir(), "imdsproxy-recipes-"));
    for (const part of [
      "src",
      "test",
      "docs",
      "scripts",
      "Makefile",
      "README.md",
      "package.json",
      "tsconfig.json",
      "CONTRIBUTING.md",
      "CHANGELOG.md",
    ]) {
      if (existsSync(join(REPOSITORY, part)))
        cpSync(join(REPOSITORY, part), join(tree, part), { recursive: true });
    }
    for (const part of ["node_modules", "dist"]) symlinkSync(join(REPOSITORY, part), join(tree, part));
  });
  afterAll(() => rmSync(tree, { recursive: true, force: true }));

  const run = (paths: readonly string[]) => {
    const { exitCode, stderr } = Bun.spawnSync(
      [process.execPath, "test", "--timeout=180000", "--only-failures", ...paths.map((path) => `./${path}`)],
      { cwd: tree, env: { ...process.env, IMDSPROXY_FUZZ_RUNS: "0.02" } },
    );
    return { exitCode, said: exitCode === 0 ? "" : stderr.toString().slice(-3_000) };
  };

  test("are for a route, a configuration key, a metric, a command and an attack", () => {
    expect(all.map(({ name }) => name)).toEqual([
      "Add a route",
      "Add a configuration key",
      "Add a metric",
      "Add a command",
      "Add an attack",
    ]);
    for (const { name, unit } of all) expect([name, unit.length > 0]).toEqual([name, true]);
  });

  test("lead to what they say, in one tree, by the tests that they name", () => {
    for (const { steps } of all) for (const step of steps) follow(tree, step);
    const named = [...new Set(all.flatMap(({ unit }) => unit))];
    expect(run(named)).toEqual({ exitCode: 0, said: "" });
  }, 300_000);

  test.if(isRoot)(
    "the attack's, too",
    () => {
      expect(run(all.flatMap(({ root }) => root))).toEqual({ exitCode: 0, said: "" });
    },
    300_000,
  );

  test("without its last step a recipe is not done: the tests that it names say so", () => {
    const { name, steps, unit } = all[2] as Recipe;
    expect(name).toBe("Add a metric");
    const { file, text } = steps.at(-1) as Step;
    const path = join(tree, file);
    writeFileSync(path, readFileSync(path, "utf8").replace(text, ""));
    expect(run(unit).exitCode).not.toBe(0);
  }, 300_000);
});
