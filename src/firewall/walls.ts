import type { Iptables, Outcome, Part } from "./operations.ts";
import { apply, remove } from "./operations.ts";
import { OWN_CHAINS } from "./rules.ts";
import type { FirewallSpec } from "./types.ts";
import type { SecondWall } from "./wall/wall.ts";

/**
 * The two walls together: the rules of iptables, and the routing rules that hold while those are away. The second belongs
 * to the block: the redirect alone (`nat`) has none.
 */

export interface Walls {
  readonly iptables: Iptables;
  readonly wall: SecondWall;
}

/** What an operation did, or would do, to both. */
export interface WallsOutcome extends Outcome {
  /** Of the second wall: what was not right, or in a dry run the commands of ip(8) that would put it right. */
  readonly routing: readonly string[];
}

/** For people: why there is no second wall, and how long a flush stays open without it. */
export const withoutWall = (why: string): string =>
  `no second wall: ${why}: a flush of the firewall by others opens the node to every user until the watch has repaired it ` +
  "(about 0.1 s; iptables-legacy: up to 2 s; without the watch: for good)";

const hasBlock = (part: Part): boolean => part !== "nat";

/**
 * Brings the rules and the wall. What stands already of the wall is put right first, for it needs no process; what is new
 * comes after the rules, without which it would refuse everyone.
 */
export async function applyWalls(
  { iptables, wall }: Walls,
  spec: FirewallSpec,
  part: Part = "both",
  dryRun = false,
): Promise<WallsOutcome> {
  const notes = wall.unavailable === null ? [] : [withoutWall(wall.unavailable)];
  if (dryRun) {
    const outcome = await apply(iptables, spec, part, true);
    return withRouting(outcome, hasBlock(part) ? wall.describe(spec) : [], notes);
  }
  const bring = () =>
    hasBlock(part) ? iptables.exclusively(async () => wall.bring(spec)) : Promise.resolve([]);
  const before = wall.isThere() ? await bring() : [];
  let outcome: Outcome;
  try {
    outcome = await apply(iptables, spec, part);
  } catch (error) {
    // IPv4 may be done where IPv6 is not: then users are redirected, and the wall refuses nobody.
    if (await isRedirected(iptables)) {
      await bring()
        .then(() => hasBlock(part) && wall.endOld(spec))
        .catch(() => {});
    }
    throw error;
  }
  const after = await bring();
  const ended = hasBlock(part) ? wall.endOld(spec) : { ended: 0, problems: [] };
  return withRouting(outcome, before.length > 0 ? before : after, [
    ...notes,
    ...ended.problems.map((problem) => `connections that users opened before the rules came: ${problem}`),
  ]);
}

/** Takes away both, or the part that is named. */
export async function removeWalls(
  { iptables, wall }: Walls,
  part: Part = "both",
  dryRun = false,
): Promise<WallsOutcome> {
  if (dryRun) {
    const outcome = await remove(iptables, part, true);
    return withRouting(outcome, hasBlock(part) ? wall.describe(null) : [], []);
  }
  // The wall first: behind it, users are still led to the proxy.
  const found = hasBlock(part) ? await iptables.exclusively(async () => wall.bring(null)) : [];
  const outcome = await remove(iptables, part);
  return withRouting(outcome, found, []);
}

const withRouting = (
  outcome: Outcome,
  routing: readonly string[],
  notes: readonly string[],
): WallsOutcome => ({
  ...outcome,
  changed: outcome.changed || routing.length > 0,
  routing,
  notes: [...outcome.notes, ...notes],
});

async function isRedirected(iptables: Iptables): Promise<boolean> {
  const rules = await iptables.read("ipv4").catch(() => new Map());
  return OWN_CHAINS.nat.some((name) => rules.get("nat")?.has(name) === true);
}
