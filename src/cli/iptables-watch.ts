import { defineCommand } from "citty";
import { ImdsProxyError } from "../errors.ts";
import { bringRules, watchRules } from "../service/watch.ts";
import { configArg } from "./common.ts";

export default defineCommand({
  meta: {
    name: "watch",
    description:
      "Keep the rules in place: check every 2 s, and repair what is missing, changed or no longer first",
  },
  args: {
    config: configArg,
    once: {
      type: "boolean",
      description:
        "Apply the rules once, as at boot: the last good ones where the configuration cannot be read",
      default: false,
    },
  },
  async run({ args }) {
    const healthy = await (args.once ? bringRules : watchRules)(args.config);
    if (!healthy) {
      throw new ImdsProxyError(
        "unhealthy",
        "the firewall rules are not as they should be",
        "see the lines above",
      );
    }
  },
});
