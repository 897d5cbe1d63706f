import type { Iptables, Outcome, Part } from "./operations.ts";
import { apply, remove } from "./operations.ts";
import { OWN_CHAINS } from "./rules.ts";
import type { FirewallSpec } from "./types.ts";
import type { SecondWall } from "./wall/wall.ts";

/**
 * Both walls: the iptables rules, and the routing rules that protect while those are missing. The second wall belongs to the
 * block; with the redirect alone (`nat`) there is none.
 */

export interface Walls {
  readonly iptables: Iptables;
  readonly wall: SecondWall;
}

/** What an operation changed, or would change, in both walls. */
export interface WallsOutcome extends Outcome {
  /** The second wall's differences; in a dry run, the commands of ip(8) that would correct them. */
  readonly routing: readonly string[];
}

/** The message that says why there is no second wall, and for how long the node is open after a flush without it. */
export const withoutWall = (why: string): string =>
  `no second wall: ${why}: a flush of the firewall by others opens the node to every user until the watch has repaired it ` +
  "(about 0.1 s; iptables-legacy: up to 2 s; without the watch: for good)";

const hasBlock = (part: Part): boolean => part !== "nat";

/**
 * Applies the rules and the second wall. A wall that is there is corrected first, because that needs no process. A new one is
 * added after the rules, because without them it would refuse every user.
 *
 * @throws ImdsProxyError where either cannot be applied. The other one is then as it should be, as far as that was possible.
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
  // Where it fails, the rules are applied all the same; the second attempt below fails with the reason, if it is still there.
  const before = wall.isThere() ? await bring().catch(() => []) : [];
  let outcome: Outcome;
  try {
    outcome = await apply(iptables, spec, part);
  } catch (error) {
    // IPv4 may have succeeded where IPv6 failed. Then users are redirected, and the wall refuses nobody.
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

/** Removes both walls, or the named part. */
export async function removeWalls(
  { iptables, wall }: Walls,
  part: Part = "both",
  dryRun = false,
): Promise<WallsOutcome> {
  if (dryRun) {
    const outcome = await remove(iptables, part, true);
    return withRouting(outcome, hasBlock(part) ? wall.describe(null) : [], []);
  }
  // The second wall first. Until the rules are removed, users are still redirected to the proxy.
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
