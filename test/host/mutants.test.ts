import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Result } from "../simulation/run.ts";
import { fuzzSeed } from "../support/fuzz.ts";

/**
 * Faults that the simulation must find: each patch of `test/simulation/mutants` is applied to a copy of the sources, and a process of
 * its own runs the simulation there. Needs git.
 */

/** How many events a planted fault has, at most, to be found in: each is found in fewer than a fifth of them. */
const TO_FIND = 200_000;
const ROOT = resolve(import.meta.dir, "../..");
const MUTANTS = join(ROOT, "test/simulation/mutants");

describe("a fault that was planted is found:", () => {
  let copy: string;
  beforeAll(() => {
    copy = mkdtempSync(join(tmpdir(), "imdsproxy-mutant-"));
    for (const part of ["src", "test/simulation", "package.json", "tsconfig.json"])
      cpSync(resolve(ROOT, part), join(copy, part), { recursive: true });
    symlinkSync(resolve(ROOT, "node_modules"), join(copy, "node_modules"));
  });
  afterAll(() => rmSync(copy, { recursive: true }));

  const run = (cwd: string, ...argv: string[]) => {
    const { exitCode, stdout, stderr } = Bun.spawnSync(argv, { cwd });
    return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
  };

  for (const patch of readdirSync(MUTANTS).sort()) {
    test(patch.replace(/\.patch$/, "").replaceAll("-", " "), () => {
      const patched = (...how: string[]) =>
        expect(
          run(copy, "git", "apply", "--unsafe-paths", "--recount", ...how, join(MUTANTS, patch)),
        ).toMatchObject({ exitCode: 0, stderr: "" });
      patched();
      const found = run(copy, process.execPath, "test/simulation/run.ts", String(fuzzSeed), String(TO_FIND));
      patched("--reverse");
      const result = JSON.parse(found.stdout) as Result;
      expect({ ...result, counts: null }).toMatchObject({ failure: expect.any(String) });
      expect(result.steps).toBeLessThan(TO_FIND / 5);
    }, 600_000);
  }
});
