import { existsSync } from "node:fs";
import { defineCommand } from "citty";
import { PLATFORMS, type Platform } from "../config/platforms.ts";
import { ImdsProxyError } from "../errors.ts";
import { monotonicMs } from "../platform/clock.ts";
import { OBSERVED } from "../service/paths.ts";
import { linesTo, SILENT } from "../service/progress.ts";
import { setup } from "../service/setup.ts";
import { dryRunArg, jsonArg, overrideArgs, overridesOf } from "./common.ts";
import { problemLines } from "./problem-lines.ts";
import { say } from "./say.ts";
import { sayFindings, told } from "./service.ts";
import { jsonLine } from "./terminal.ts";

export default defineCommand({
  meta: {
    name: "setup",
    description: "Install, start and verify the service: all that a lifecycle script has to run",
  },
  args: {
    config: {
      type: "string",
      description:
        "A configuration to install as /etc/imdsproxy/config.yaml; or s3://BUCKET/KEY or ssm:NAME, taken once",
      valueHint: "FILE",
    },
    "config-sha256": {
      type: "string",
      description:
        "The SHA-256 of a configuration of S3 or SSM, without which only role, rules and tests are taken",
      valueHint: "HEX",
    },
    ...overrideArgs,
    platform: {
      type: "string",
      description: `Exempt the accounts of this platform's own daemons: auto, ${PLATFORMS.join(", ")} or none`,
      default: "auto",
      valueHint: "NAME",
    },
    exempt: {
      type: "string",
      description: "Exempt these users as well: they keep the instance role",
      valueHint: "USER[,USER]",
    },
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
    const planned: string[] = [];
    const quietly = args["dry-run"] ? linesTo((line) => planned.push(line)) : SILENT;
    const report = await setup({
      configFile: args.config,
      configSha256: sha256Of(args["config-sha256"]),
      overrides: overridesOf(args),
      platform: platformOf(args.platform),
      exempt: (args.exempt ?? "").split(",").filter((name) => name !== ""),
      verifyAs: args["verify-as"],
      dryRun: args["dry-run"],
      ...(args.json ? quietly : told(args["dry-run"])),
    });
    if (report === null) {
      if (args.json) console.log(jsonLine({ dryRun: true, lines: planned }));
      return;
    }
    const ok = report.findings.every((finding) => finding.ok);
    const { findings, problems } = report;
    if (args.json) console.log(jsonLine({ ok, findings, problems }));
    else {
      sayFindings(findings);
      for (const line of problems.flatMap((problem) => problemLines(problem))) say(line);
    }
    if (!ok) {
      throw new ImdsProxyError(
        "unhealthy",
        "the service is installed and runs, but does not do what it should",
        "The rules are in place: users get what the proxy gives them, or nothing. What is installed stays so.\n" +
          "Mend what the lines above name, then: imdsproxy service status, or imdsproxy setup again.",
      );
    }
    if (!args.json && !existsSync(OBSERVED)) {
      say(
        "note: nothing was ever observed on this node: imdsproxy observe --for 24h shows who asks the metadata service for what, " +
          "and what each gets or is refused",
      );
    }
    if (!args.json) console.log(`done in ${((monotonicMs() - started) / 1000).toFixed(1)} s`);
  },
});

function sha256Of(text: string | undefined): string | undefined {
  if (text === undefined || /^[0-9a-fA-F]{64}$/.test(text)) return text;
  throw new ImdsProxyError(
    "usage",
    `setup: --config-sha256 is ${JSON.stringify(text)}, which is not a SHA-256`,
    "64 hexadecimal digits, as sha256sum(1) prints them",
  );
}

function platformOf(text: string): Platform | "auto" {
  const known = ["auto", ...PLATFORMS, "none"] as const;
  const platform = known.find((one) => one === text);
  if (platform !== undefined) return platform;
  throw new ImdsProxyError(
    "usage",
    `setup: --platform is ${JSON.stringify(text)}, which is no platform`,
    `one of ${known.join(", ")}`,
  );
}
