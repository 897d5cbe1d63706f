import fc from "fast-check";

/**
 * Property tests that can be run again: the seed is fixed unless IMDSPROXY_FUZZ_SEED gives another (`random` for a new
 * one), and a failure prints seed and path. IMDSPROXY_FUZZ_RUNS multiplies the number of runs, for a long night.
 */

const FIXED_SEED = 20_300_101;

const setting = (name: string): string | undefined => process.env[name] || undefined;

/** The seed of this run. */
export const fuzzSeed: number =
  setting("IMDSPROXY_FUZZ_SEED") === "random"
    ? Math.trunc(Math.random() * 0x7fff_ffff)
    : Number(setting("IMDSPROXY_FUZZ_SEED") ?? FIXED_SEED);

/** How many runs `runs` in the tests' text comes to. */
export const fuzzRuns = (runs: number): number =>
  Math.ceil(runs * Number(setting("IMDSPROXY_FUZZ_RUNS") ?? 1));

/**
 * Asserts that a property holds for `runs` inputs (times IMDSPROXY_FUZZ_RUNS). The counterexample that fast-check shrinks
 * to, its seed and its path are in the error.
 */
export function holds<Inputs>(property: fc.IProperty<Inputs>, runs: number): void {
  fc.assert(property, { seed: fuzzSeed, numRuns: fuzzRuns(runs) });
}

/** The same for a property that awaits. */
export async function holdsAsync<Inputs>(property: fc.IAsyncProperty<Inputs>, runs: number): Promise<void> {
  await fc.assert(property, { seed: fuzzSeed, numRuns: fuzzRuns(runs) });
}

/** Any Unicode character. fast-check's own unit "binary" is the same, and lists all 1.1 million of them first: 0.7 s. */
const character = fc
  .integer({ min: 0, max: 0x10_ffff - 0x800 })
  .map((number) => String.fromCodePoint(number < 0xd800 ? number : number + 0x800));

/** Any text; lengths are in characters. */
export const anyText = (lengths: { minLength?: number; maxLength?: number } = {}): fc.Arbitrary<string> =>
  fc.string({ ...lengths, unit: character });

/** Generators of a fixed sequence, for loops that make their own inputs by the thousand. */
export function randomBytesFrom(seed: number): (length: number) => Uint8Array {
  // xorshift32 (Marsaglia 2003): not for secrets, quick, and the same everywhere.
  let state = seed | 1;
  const next = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  return (length) => Uint8Array.from({ length }, () => next() & 0xff);
}
