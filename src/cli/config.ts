import { defineCommand } from "citty";
import { configJsonSchema } from "../config/known-keys.ts";
import { DEFAULT_CONFIG_PATH, loadConfig } from "../config/load.ts";
import { configWarnings } from "../config/warnings.ts";
import { ImdsProxyError } from "../errors.ts";
import { nodeWarnings } from "../service/node-warnings.ts";
import { configArg, counted, jsonArg } from "./common.ts";

const check = defineCommand({
  meta: { name: "check", description: "Check the configuration; exit 2 names every wrong key" },
  args: {
    file: {
      type: "positional",
      description: "The configuration file; the same as --config FILE",
      required: false,
    },
    config: configArg,
    json: jsonArg,
  },
  async run({ args }) {
    if (args.file !== undefined && args.config !== undefined && args.file !== args.config) {
      throw new ImdsProxyError(
        "usage",
        `config check: two files, ${args.file} and --config ${args.config}`,
        "name one of them",
      );
    }
    const named = args.file ?? args.config;
    const config = loadConfig({ path: named });
    const path = named ?? DEFAULT_CONFIG_PATH;
    const warnings = [...configWarnings(config).map(({ text }) => text), ...(await nodeWarnings(config))];
    if (args.json) console.log(JSON.stringify({ ok: true, path, rules: config.rules.length, warnings }));
    else
      console.log(
        `${path} is good: ${counted(config.rules.length, "rule")}, default role ${config.role ?? "none (refuse)"}`,
      );
    if (!args.json) for (const warning of warnings) console.error(`warning: ${warning}`);
  },
});

const show = defineCommand({
  meta: { name: "show", description: "Print the configuration with its defaults filled in, as JSON" },
  args: { config: configArg, json: jsonArg },
  run({ args }) {
    const config = loadConfig({ path: args.config });
    // An external id is treated as a secret: whoever knows it may assume the role.
    const rules = config.rules.map((rule) => ({
      ...rule,
      externalId: rule.externalId === null ? null : "(set)",
    }));
    console.log(JSON.stringify({ ...config, rules }, null, 2));
  },
});

const schema = defineCommand({
  meta: { name: "schema", description: "Print the configuration's JSON Schema" },
  args: { json: jsonArg },
  run() {
    console.log(JSON.stringify(configJsonSchema(), null, 2));
  },
});

export default defineCommand({
  meta: { name: "config", description: "Check, show and describe the configuration" },
  subCommands: { check, show, schema },
});
