/**
 * `bun test/simulation/run.ts SEED STEPS`: runs the simulation for that many events and prints one line of JSON. A failing
 * seed fails again, after as many events. Exits with 1 where an invariant does not hold.
 */
import { Violation, World } from "./world.ts";

/** Events between two times at which nothing fails and everybody has to get what is theirs. */
const CALM_EVERY = 10_000;

export interface Result {
  readonly seed: number;
  /** Events. */
  readonly steps: number;
  /** Which invariant did not hold, after `steps` events; null where all held. */
  readonly failure: string | null;
  readonly counts: Readonly<Record<string, number>>;
}

export async function simulate(seed: number, steps: number): Promise<Result> {
  const world = new World({ seed });
  let calmAt = CALM_EVERY;
  const result = (failure: string | null): Result => ({
    ...{ seed, steps: world.events, failure, counts: world.counts },
  });
  try {
    while (world.events < steps) {
      await world.step();
      if (world.events < calmAt) continue;
      calmAt = world.events + CALM_EVERY;
      await world.settleDown();
    }
    return result(null);
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    return result(error.message);
  } finally {
    world.broker.stop();
  }
}

if (import.meta.main) {
  const [seed = 1, steps = 100_000] = process.argv.slice(2).map(Number);
  const result = await simulate(seed, steps);
  console.log(JSON.stringify(result));
  process.exitCode = result.failure === null ? 0 : 1;
}
