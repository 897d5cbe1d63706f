import { defineCommand } from "citty";
import { ImdsProxyError } from "../errors.ts";
import { configArg, dryRunArg, jsonArg } from "./common.ts";
import { say } from "./say.ts";
import { jsonLine } from "./terminal.ts";

export default defineCommand({
  meta: {
    name: "fetch",
    description:
      "Fetch and verify the fleet's object once, and keep it if this node may take it; the timer runs this",
  },
  args: { config: configArg, "dry-run": dryRunArg, json: jsonArg },
  async run({ args }) {
    if (process.geteuid?.() !== 0) {
      throw new ImdsProxyError("permission", "config fetch: not running as root", "run it with sudo");
    }
    const { nodeFile, pollHere } = await import("../service/fleet-object.ts");
    const dryRun = args["dry-run"];
    const result = await pollHere(nodeFile(args.config), { dryRun });
    if (args.json) console.log(jsonLine(result));
    if (result.kind === "failed")
      throw new ImdsProxyError(
        "unhealthy",
        `the fleet's object was not taken, and nothing has changed: ${result.what}`,
        result.remedy,
      );
    if (args.json) return;
    const of = `serial ${result.serial}, sha256 ${result.hash}`;
    if (result.kind === "unchanged") say(`unchanged: ${of}`);
    else {
      const before = result.before === null ? "the first one" : `after serial ${result.before}`;
      say(dryRun ? `would be taken: ${of}, ${before}` : `taken: ${of}, ${before}`);
    }
  },
});
