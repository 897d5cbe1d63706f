import { defineCommand } from "citty";
import { systemIptables } from "../../firewall/iptables.ts";
import { removeOriginalEntry, restoreOriginalEntry } from "../../firewall/operations.ts";
import { AGENT_ENTRY_SEEN } from "../../service/paths.ts";
import { forget, isMarked } from "../../service/state-files.ts";
import { configArg, dryRunArg } from "../common.ts";
import { say } from "../say.ts";
import { printOutcome } from "./common.ts";

const args = {
  config: { ...configArg, description: "Not needed: the agent's entry is always the same" },
  "dry-run": dryRunArg,
} as const;

export const removeOriginal = defineCommand({
  meta: { name: "remove-original", description: "Remove the HyperPod agent's own entry, every copy of it" },
  args,
  async run({ args }) {
    const outcome = await removeOriginalEntry(systemIptables(), args["dry-run"]);
    // It was removed on purpose: `service disable` must not bring it back.
    if (!args["dry-run"]) forget(AGENT_ENTRY_SEEN);
    await printOutcome(outcome, args["dry-run"], {
      done: "the HyperPod agent's entry is removed",
      already: "the HyperPod agent's entry is not there: nothing to do",
    });
  },
});

export const restoreOriginal = defineCommand({
  meta: { name: "restore-original", description: "Put the HyperPod agent's own entry back" },
  args: {
    ...args,
    "if-seen": {
      type: "boolean",
      description:
        "Only where the watch has seen it on this node, and nobody has removed it by remove-original",
      default: false,
    },
  },
  async run({ args }) {
    if (args["if-seen"] && !isMarked(AGENT_ENTRY_SEEN)) {
      say("the HyperPod agent's entry has not been seen on this node: nothing to do");
      return;
    }
    const outcome = await restoreOriginalEntry(systemIptables(), args["dry-run"]);
    await printOutcome(outcome, args["dry-run"], {
      done: "the HyperPod agent's entry is back",
      already: "the HyperPod agent's entry is there already: nothing to do",
    });
  },
});
