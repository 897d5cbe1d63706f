import { defineCommand } from "citty";
import { endClosedState } from "../../firewall/closed-node.ts";
import { systemIptables } from "../../firewall/iptables.ts";
import { bringLimits, takeLimits } from "../../firewall/limits/operations.ts";
import type { Part } from "../../firewall/operations.ts";
import { systemWall } from "../../firewall/wall/wall.ts";
import { applyWalls, removeWalls } from "../../firewall/walls.ts";
import { KNOWN_RULES } from "../../service/paths.ts";
import { forget } from "../../service/state-files.ts";
import { configArg, dryRunArg } from "../common.ts";
import { printOutcome, resolveSpec, specArgs, specLine } from "./common.ts";

const systemWalls = () => ({ iptables: systemIptables(), wall: systemWall() });

/** A command that brings a part of the rules. */
const bring = (name: string, part: Part, description: string, what: string) =>
  defineCommand({
    meta: { name, description },
    args: { ...specArgs, "dry-run": dryRunArg },
    async run({ args }) {
      const resolved = await resolveSpec(args);
      console.error(specLine(resolved));
      const dryRun = args["dry-run"];
      const walls = await applyWalls(systemWalls(), resolved.spec, part, dryRun);
      // After the rules, which do not depend on them; with the block, which is what they stand beside.
      const outcome = part === "nat" ? walls : { ...walls, ...bringLimits(walls, resolved.spec, dryRun) };
      if (part === "both" && !dryRun) endClosedState();
      await printOutcome(outcome, dryRun, {
        done: `${what} is in place`,
        already: `${what} is in place already: nothing to do`,
      });
      // After the rules, which stand without these users: closed for one too many, never open for all.
      if (resolved.unknownExempt !== null) throw resolved.unknownExempt;
    },
  });

/** A command that takes a part of the rules away; it needs nothing of the configuration. */
const take = (name: string, part: Part, description: string, what: string) =>
  defineCommand({
    meta: { name, description },
    args: {
      config: { ...configArg, description: "Not needed: whatever is ours is removed" },
      "dry-run": dryRunArg,
    },
    async run({ args }) {
      const dryRun = args["dry-run"];
      const walls = await removeWalls(systemWalls(), part, dryRun);
      const outcome = part === "nat" ? walls : { ...walls, ...takeLimits(walls, dryRun) };
      if (part === "both" && !dryRun) endClosedState();
      // Rules that are not wanted are not known as right: no later watch puts them back before it has asked.
      if (!dryRun) forget(KNOWN_RULES);
      await printOutcome(outcome, dryRun, {
        done: `${what} is removed`,
        already: `${what} is not there: nothing to do`,
      });
    },
  });

export const apply = bring("apply", "both", "Put all rules in place, or repair them", "the firewall");
export const remove = take("remove", "both", "Take all our rules away", "the firewall");
export const addProxy = bring(
  "add-proxy",
  "nat",
  "Send ordinary users' metadata requests to the proxy (the redirect alone)",
  "the redirect to the proxy",
);
export const removeProxy = take("remove-proxy", "nat", "Take the redirect away", "the redirect to the proxy");
export const blockDirect = bring(
  "block-direct",
  "filter",
  "Refuse ordinary users' direct connections to the instance role (the block alone)",
  "the block of direct access",
);
export const unblockDirect = take(
  "unblock-direct",
  "filter",
  "Take the block away",
  "the block of direct access",
);
