import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fuzzRuns, fuzzSeed } from "../support/fuzz.ts";
import { type Result, simulate } from "./run.ts";

/** `bun test/simulation/run.ts SEED STEPS` repeats a seed, or runs for a night. */

const EVENTS = 1_000_000;
const SEEDS = 4;
/** How many events a planted fault has, at most, to be found in: each is found in fewer than a tenth of them. */
const TO_FIND = 200_000;
const MUTANTS = join(import.meta.dir, "mutants");

describe("handler, rules, tokens, broker and cache hold their invariants", () => {
  for (let i = 0; i < SEEDS; i++) {
    const seed = fuzzSeed + i;
    test(`for ${EVENTS / SEEDS} events of the seed ${seed}`, async () => {
      const { failure, steps, counts } = await simulate(seed, fuzzRuns(EVENTS / SEEDS));
      expect({ seed, steps, failure }).toEqual({ seed, steps: expect.any(Number), failure: null });
      // What never happened was not tried.
      for (const kind of [
        "given",
        "denied",
        "reload",
        "clock",
        "sleep",
        "sts over",
        "sts hangs",
        "sts transient",
      ])
        expect({ kind, happened: (counts[kind] ?? 0) > 0 }).toEqual({ kind, happened: true });
    }, 600_000);
  }
  test("and the same seed gives the same run", async () => {
    const once = await simulate(fuzzSeed, 5_000);
    expect(await simulate(fuzzSeed, 5_000)).toEqual(once);
  });
});

describe("a fault that was planted is found:", () => {
  let copy: string;
  beforeAll(() => {
    copy = mkdtempSync(join(tmpdir(), "imdsproxy-mutant-"));
    for (const part of ["src", "test/simulation", "package.json", "tsconfig.json"])
      cpSync(resolve(import.meta.dir, "../..", part), join(copy, part), { recursive: true });
    symlinkSync(resolve("node_modules"), join(copy, "node_modules"));
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
      expect(result.steps).toBeLessThan(TO_FIND / 10);
    }, 600_000);
  }
});
