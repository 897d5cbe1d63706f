import { afterAll, beforeAll, expect, setDefaultTimeout } from "bun:test";
import { FIRST_BOOT_LIMIT_MS, LIMIT_MS, type Machine } from "./machine.ts";
import { hammered, hammeredEnough } from "./node.ts";

/**
 * The machine of a group of tests, called where they are described: it is made and switched on before the first of them, and thrown
 * away after the last. Each test of the file has {@link LIMIT_MS}, unless it has a limit of its own.
 *
 * @param make makes it, off.
 * @param prepare what happens once it has booted; default nothing.
 * @returns what stands for the machine, from `prepare` on.
 */
export function bootedMachine(
  make: () => Machine,
  prepare: () => Promise<unknown> = async () => {},
): Machine {
  setDefaultTimeout(LIMIT_MS);
  let machine: Machine | undefined;
  beforeAll(async () => {
    machine = make();
    await machine.boot();
    await prepare();
  }, FIRST_BOOT_LIMIT_MS);
  afterAll(() => machine?.destroy(), LIMIT_MS);
  return new Proxy({} as Machine, {
    get(_, name) {
      if (machine === undefined) throw new Error("the machine is not made yet: only tests may use it");
      const value: unknown = Reflect.get(machine, name);
      return typeof value === "function" ? value.bind(machine) : value;
    },
  });
}

/** Waits until each attacker has made so many tries, as {@link hammeredEnough} counts them. None may have had the instance role. */
export async function expectNoLeaks(machine: Machine, tries: number, directory?: string): Promise<void> {
  await hammeredEnough(machine, tries, directory);
  for (const [name, { leaks }] of Object.entries(await hammered(machine, directory)))
    expect([name, leaks]).toEqual([name, 0]);
}
