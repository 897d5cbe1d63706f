import { describe, expect, test } from "bun:test";
import { fuzzRuns, fuzzSeed } from "../support/fuzz.ts";
import { simulate } from "./run.ts";

/** `bun test/simulation/run.ts SEED STEPS` repeats a seed, or runs for a night. `test/host/mutants.test.ts` has it find planted faults. */

const EVENTS = 1_000_000;
const SEEDS = 4;

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
