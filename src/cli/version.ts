import { createHash } from "node:crypto";
import { defineCommand } from "citty";
import { configSchemaText } from "../config/known-keys.ts";
import { commit, date, target, version, versionText } from "../version.ts";
import { jsonArg } from "./common.ts";
import { jsonLine } from "./terminal.ts";

export default defineCommand({
  meta: { name: "version", description: "Print the version, and what the executable was built from" },
  args: { json: jsonArg },
  run({ args }) {
    // Two nodes with the same hash take the same configurations. It is also that of config.schema.json in SHA256SUMS.
    const schemaSha256 = createHash("sha256").update(configSchemaText()).digest("hex");
    if (args.json) {
      console.log(jsonLine({ version, commit, date, target, bun: Bun.version, schemaSha256 }));
      return;
    }
    const rows = [
      ["date", date],
      ["target", target],
      ["bun", Bun.version],
      ["schema", `sha256 ${schemaSha256}`],
    ];
    console.log([versionText(), ...rows.map(([name = "", value]) => `${name.padEnd(8)}${value}`)].join("\n"));
  },
});
