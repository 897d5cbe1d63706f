import { existsSync, readFileSync } from "node:fs";
import { defineCommand } from "citty";
import { ConfigDocument } from "../config/document.ts";
import { configSchemaText } from "../config/known-keys.ts";
import { DEFAULT_CONFIG_PATH, loadTests, loadWithObject } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { type ConfigWarning, configWarnings } from "../config/warnings.ts";
import { ImdsProxyError } from "../errors.ts";
import { failedTests, type PolicyTest } from "../rules/policy-tests.ts";
import { nodeWarnings } from "../service/node-warnings.ts";
import { configArg, counted, jsonArg, withoutRules } from "./common.ts";
import { say, sayBeside } from "./say.ts";
import { jsonLine, jsonText } from "./terminal.ts";

const check = defineCommand({
  meta: { name: "check", description: "Check the configuration; exit 2 names every wrong key" },
  args: {
    file: {
      type: "positional",
      description: "The configuration file; the same as --config FILE",
      required: false,
    },
    config: configArg,
    object: {
      type: "string",
      description: "The fleet's object, where the configuration has config; default the node's copy",
      valueHint: "FILE",
    },
    tests: {
      type: "string",
      description: "More tests of the rules, from a file of their own",
      valueHint: "FILE",
    },
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
    if (named === undefined && !existsSync(DEFAULT_CONFIG_PATH)) {
      throw new ImdsProxyError(
        "config",
        `config check: there is no ${DEFAULT_CONFIG_PATH}`,
        "name the file: imdsproxy config check FILE",
      );
    }
    const { config, object } = loadWithObject({ path: named, objectPath: args.object });
    const path = named ?? DEFAULT_CONFIG_PATH;
    if (args.object !== undefined && object === null) {
      throw new ImdsProxyError(
        "usage",
        `config check: --object ${args.object}, and ${path} takes no object: it has no key config`,
        "leave out --object, or name a configuration with config: {source: …}",
      );
    }
    if (object?.kind === "unusable") throw new ImdsProxyError("config", object.problem, object.remedy);
    const more = args.tests === undefined ? [] : runTests(config, args.tests);
    const tests = (config.tests?.length ?? 0) + more.length;
    const missing: readonly ConfigWarning[] =
      object?.kind === "missing" ? [{ keys: ["config"], text: withoutRules(object) ?? "" }] : [];
    const ofFile = [...missing, ...(object?.kind === "good" ? [] : configWarnings(config))];
    const ofObject = object?.kind === "good" ? configWarnings(config).map(({ text }) => text) : [];
    const ofNode = await nodeWarnings(config);
    if (args.json) {
      const warnings = [...ofFile.map(({ text }) => text), ...ofObject, ...ofNode];
      const of = object === null ? {} : { object };
      console.log(jsonLine({ ok: true, path, rules: config.rules.length, tests, ...of, warnings }));
      return;
    }
    const passed = tests === 0 ? "" : `, ${counted(tests, "test")} passed`;
    const withObject = object?.kind === "good" ? ` with the object of serial ${object.serial}` : "";
    say(
      `${path}${withObject} is good: ${counted(config.rules.length, "rule")}, default role ${config.role ?? "none (refuse)"}${passed}`,
    );
    const document = ofFile.length === 0 ? null : new ConfigDocument(readFileSync(path, "utf8"), path);
    for (const { text, keys } of ofFile) {
      const excerpt = document?.excerpt(keys) ?? null;
      sayBeside([`warning: ${text}`, ...(excerpt?.split("\n") ?? [])].join("\n  "));
    }
    for (const warning of [...ofObject, ...ofNode]) sayBeside(`warning: ${warning}`);
  },
});

/** Runs the tests of a file against the configuration. @throws ImdsProxyError `config`, with each that failed. */
function runTests(config: Config, path: string): readonly PolicyTest[] {
  const { tests, failure } = loadTests(path);
  const failed = failedTests(config, tests);
  if (failed.length > 0) throw failure(failed);
  return tests;
}

const show = defineCommand({
  meta: { name: "show", description: "Print the configuration with its defaults filled in, as JSON" },
  args: { config: configArg, json: jsonArg },
  run({ args }) {
    const { config, object } = loadWithObject({ path: args.config });
    const note = withoutRules(object);
    if (note !== null) sayBeside(`note: ${note}`);
    // An external id is treated as a secret: whoever knows it may assume the role.
    const rules = config.rules.map((rule) => ({
      ...rule,
      externalId: rule.externalId === null ? null : "(set)",
    }));
    console.log(jsonText({ ...config, rules }));
  },
});

const schema = defineCommand({
  meta: { name: "schema", description: "Print the configuration's JSON Schema" },
  args: { json: jsonArg },
  run() {
    console.log(configSchemaText().trimEnd());
  },
});

export default defineCommand({
  meta: {
    name: "config",
    description: "Check, show, compare and describe the configuration; sign and fetch a fleet's",
  },
  subCommands: {
    check,
    show,
    schema,
    diff: async () => (await import("./config-diff.ts")).default,
    fetch: async () => (await import("./config-fetch.ts")).default,
    sign: async () => (await import("./config-sign.ts")).default,
  },
});
