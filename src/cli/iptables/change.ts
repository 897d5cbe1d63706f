import { defineCommand } from "citty";
import { endClosedState } from "../../firewall/closed-node.ts";
import { systemIptables } from "../../firewall/iptables.ts";
import { sharedTables } from "../../firewall/limits/node.ts";
import { bringLimits, takeLimits } from "../../firewall/limits/operations.ts";
import type { Part } from "../../firewall/operations.ts";
import { systemWall } from "../../firewall/wall/wall.ts";
import { applyWalls, removeWalls } from "../../firewall/walls.ts";
import { KNOWN_RULES } from "../../service/paths.ts";
import { forget } from "../../service/state-files.ts";
import { configArg, dryRunArg } from "../common.ts";
import { sayBeside } from "../say.ts";
import { printOutcome, resolveSpec, specArgs, specLine } from "./common.ts";

const systemWalls = () => ({ iptables: systemIptables(), wall: systemWall() });

/** A command that applies a part of the rules. */
const bring = (name: string, part: Part, description: string, what: string) =>
  defineCommand({
    meta: { name, description },
    args: { ...specArgs, "dry-run": dryRunArg },
    async run({ args }) {
      const resolved = await resolveSpec(args);
      sayBeside(specLine(resolved));
      const dryRun = args["dry-run"];
      const tracksBefore = sharedTables.conntrackMax() !== null;
      const walls = await applyWalls(systemWalls(), resolved.spec, part, dryRun);
      // The rules of nat load connection tracking, and the limits depend on the size of its table, which can be read only then.
      const isNew = !tracksBefore && sharedTables.conntrackMax() !== null;
      const { spec } = isNew ? await resolveSpec(args) : resolved;
      // The limits come last, because the rules do not depend on them. They belong to the block.
      const outcome = part === "nat" ? walls : { ...walls, ...bringLimits(walls, spec, dryRun) };
      if (part === "both" && !dryRun) endClosedState();
      await printOutcome(outcome, dryRun, {
        done: `${what} is in place`,
        already: `${what} is in place already: nothing to do`,
      });
      // Reported last: the rules are in place, and redirect these users like any other.
      if (resolved.unknownExempt !== null) throw resolved.unknownExempt;
    },
  });

/** A command that removes a part of the rules; it does not read the configuration. */
const take = (name: string, part: Part, description: string, what: string) =>
  defineCommand({
    meta: { name, description },
    args: {
      config: { ...configArg, description: "Not needed: every rule of imdsproxy is removed" },
      "dry-run": dryRunArg,
    },
    async run({ args }) {
      const dryRun = args["dry-run"];
      const walls = await removeWalls(systemWalls(), part, dryRun);
      const outcome = part === "nat" ? walls : { ...walls, ...takeLimits(walls, dryRun) };
      if (part === "both" && !dryRun) endClosedState();
      // Otherwise a watch that is started later would put the rules back before it reads the configuration.
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
