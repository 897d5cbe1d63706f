import { defineCommand } from "citty";
import { configArg, overrideArgs, overridesOf } from "./common.ts";

export default defineCommand({
  meta: { name: "serve", description: "Run the proxy" },
  args: { config: configArg, ...overrideArgs },
  async run({ args }) {
    const { serve } = await import("../wiring/serve.ts");
    await serve({ configPath: args.config, overrides: overridesOf(args) });
  },
});
