import { defineCommand } from "citty";
import { Signals } from "../wiring/signals.ts";
import { configArg, overrideArgs, overridesOf } from "./common.ts";

export default defineCommand({
  meta: { name: "serve", description: "Run the proxy" },
  args: {
    config: configArg,
    ...overrideArgs,
    "share-port": {
      type: "boolean",
      description: "Let a second proxy of the same account listen beside this one, as during an upgrade",
      default: false,
    },
  },
  async run({ args }) {
    const signals = new Signals();
    const { serve } = await import("../wiring/serve.ts");
    await serve({
      configPath: args.config,
      overrides: overridesOf(args),
      sharePort: args["share-port"],
      signals,
    });
  },
});
