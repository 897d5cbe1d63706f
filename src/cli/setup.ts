import { defineCommand } from "citty";
import { ImdsProxyError } from "../errors.ts";
import { monotonicMs } from "../platform/clock.ts";
import { problemLines } from "../service/proxy-health.ts";
import { setup } from "../service/setup.ts";
import { dryRunArg, jsonArg, overrideArgs, overridesOf } from "./common.ts";
import { findingLines } from "./service.ts";

export default defineCommand({
  meta: {
    name: "setup",
    description: "Install, start and verify the service: all that a lifecycle script has to run",
  },
  args: {
    config: {
      type: "string",
      description: "A configuration to install as /etc/imdsproxy/config.yaml",
      valueHint: "FILE",
    },
    ...overrideArgs,
    "verify-as": {
      type: "string",
      description: "The ordinary account to verify as",
      default: "nobody",
      valueHint: "USER",
    },
    "dry-run": dryRunArg,
    json: jsonArg,
  },
  async run({ args }) {
    const started = monotonicMs();
    const report = await setup({
      configFile: args.config,
      overrides: overridesOf(args),
      verifyAs: args["verify-as"],
      dryRun: args["dry-run"],
      say: args.json && !args["dry-run"] ? () => {} : (line) => console.log(line),
    });
    if (report === null) return;
    const ok = report.findings.every((finding) => finding.ok);
    const { findings, problems } = report;
    if (args.json) console.log(JSON.stringify({ ok, findings, problems }));
    else for (const line of [...findingLines(findings), ...problems.flatMap(problemLines)]) console.log(line);
    if (!ok) {
      throw new ImdsProxyError(
        "unhealthy",
        "the service is installed and runs, but does not do what it should",
        "The rules are in place: users get what the proxy gives them, or nothing. What is installed stays so.\n" +
          "Mend what the lines above name, then: imdsproxy service status, or imdsproxy setup again.",
      );
    }
    if (!args.json) console.log(`done in ${((monotonicMs() - started) / 1000).toFixed(1)} s`);
  },
});
