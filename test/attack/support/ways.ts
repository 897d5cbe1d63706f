import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Running } from "../../../src/demo/run.ts";
import type { SimulatedNode, Who } from "../../support/simulated-node.ts";

/** Every way to a service of the node or of its link that tells everybody a secret, tried by whoever is on the node. */

/** What stands for the instance role's secret. */
export const SECRET = "the-instance-roles-secret";

const PROGRAMS = resolve(import.meta.dir, "../programs");
const python = (program: string, ...args: readonly string[]) => [
  ...["/usr/bin/python3", "-c", readFileSync(join(PROGRAMS, program), "utf8")],
  ...args,
];

/** Where somebody runs a program: `ip netns exec NAME`, or nothing. */
type Before = readonly string[];

/** Starts a service that tells everybody the secret; `*` listens on every address of both families by one socket. */
export const tellSecret = (
  node: SimulatedNode,
  port: number,
  addresses: readonly string[],
  before: Before = [],
): Running =>
  node.spawn({
    user: "root",
    argv: [...before, ...python("secret.py", SECRET, String(port), ...addresses)],
    timeoutMs: 0,
  });

/** Destinations, each to be tried with each source, device and kind; null leaves the choice to the kernel. */
export interface Places {
  readonly to: readonly string[];
  readonly sources: readonly (string | null)[];
  readonly devices: readonly (string | null)[];
  readonly kinds: readonly ("tcp" | "mptcp" | "fast open")[];
}

/** How somebody tries: whoever is to get through waits longer than who is not. */
export interface Try {
  readonly seconds: number;
  readonly before?: Before;
}

/** The ways on which somebody was told the secret: `to source device kind`, with None for null. */
export async function waysTo(
  node: SimulatedNode,
  who: Who,
  port: number,
  places: readonly Places[],
  { seconds, before = [] }: Try,
): Promise<string[]> {
  const argv = [
    ...before,
    ...python("ways.py", SECRET, String(port), String(seconds), JSON.stringify(places)),
  ];
  const { stdout, stderr } = await node.exec({ ...who, argv, timeoutMs: 120_000 });
  expect(stderr).toBe("");
  return stdout.split("\n").filter((line) => line !== "");
}
