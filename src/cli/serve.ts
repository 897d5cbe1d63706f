import { defineCommand } from "citty";
import { NO_STORE, systemdStore } from "../platform/socket-store.ts";
import { systemdNotified } from "../platform/systemd-notify.ts";
import { Signals } from "../wiring/signals.ts";
import { configArg, overrideArgs, overridesOf } from "./common.ts";

export default defineCommand({
  meta: { name: "serve", description: "Run the proxy" },
  args: {
    config: configArg,
    ...overrideArgs,
    object: {
      type: "string",
      description: "The copy of the fleet's object, where the configuration has config (default the node's)",
      valueHint: "FILE",
    },
    "share-port": {
      type: "boolean",
      description: "Let a second proxy of the same account listen beside this one, as during an upgrade",
      default: false,
    },
    "keep-port": {
      type: "boolean",
      description: "Leave the listening sockets with systemd over a restart (FileDescriptorStoreMax=)",
      default: false,
    },
  },
  async run({ args }) {
    const signals = new Signals();
    const store = args["keep-port"] ? systemdStore() : NO_STORE;
    try {
      const { serve } = await import("../wiring/serve.ts");
      await serve({
        configPath: args.config,
        overrides: overridesOf(args),
        objectPath: args.object,
        sharePort: args["share-port"],
        store,
        signals,
      });
    } catch (error) {
      // The start failed. Without the stored sockets clients are refused at once; with them they would wait in the queue.
      store.forgetAll();
      await systemdNotified();
      throw error;
    }
  },
});
