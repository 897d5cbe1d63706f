import { defineCommand } from "citty";
import { parseEndpoint } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import { linesTo, type Progress } from "../service/progress.ts";
import type { ServiceStatus } from "../service/service-status.ts";
import type { Finding } from "../service/verify.ts";
import { dryRunArg, jsonArg, overrideArgs, overridesOf } from "./common.ts";
import { problemLines } from "./problem-lines.ts";
import { progress } from "./progress.ts";
import { say } from "./say.ts";
import { jsonLine, jsonText } from "./terminal.ts";

/** Prints one line for each finding, escaped, because users can choose what was found. */
export function sayFindings(findings: readonly Finding[]): void {
  for (const { what, ok, found } of findings) say(`${ok ? "ok  " : "FAIL"} ${what} (${found})`, "     ");
}

/** How progress is shown; a dry run prints its plan line by line, without times. */
export const told = (isDryRun: boolean): Progress =>
  isDryRun ? linesTo((line) => console.log(line)) : progress();

const install = defineCommand({
  meta: {
    name: "install",
    description: "Put the executable, the account, the configuration and the units into place",
  },
  args: {
    config: {
      type: "string",
      description: "A configuration to install as /etc/imdsproxy/config.yaml",
      valueHint: "FILE",
    },
    ...overrideArgs,
    "dry-run": dryRunArg,
  },
  async run({ args }) {
    const { install } = await import("../service/setup.ts");
    await install({
      configFile: args.config,
      overrides: overridesOf(args),
      dryRun: args["dry-run"],
      ...told(args["dry-run"]),
    });
  },
});

const enable = defineCommand({
  meta: { name: "enable", description: "Start the installed service, now and at every boot" },
  args: { "dry-run": dryRunArg },
  async run({ args }) {
    const { enable } = await import("../service/setup.ts");
    await enable({ dryRun: args["dry-run"], ...told(args["dry-run"]) });
  },
});

const disable = defineCommand({
  meta: { name: "disable", description: "Stop it, and give the node its firewall back" },
  args: { "dry-run": dryRunArg },
  async run({ args }) {
    const { disable } = await import("../service/setup.ts");
    await disable({ dryRun: args["dry-run"], ...told(args["dry-run"]) });
  },
});

const uninstall = defineCommand({
  meta: { name: "uninstall", description: "Stop it and remove every trace of it" },
  args: {
    "keep-state": {
      type: "boolean",
      description: "Keep the configuration and the key of the tokens",
      default: false,
    },
    "dry-run": dryRunArg,
  },
  async run({ args }) {
    const { uninstall } = await import("../service/setup.ts");
    await uninstall({ keepState: args["keep-state"], dryRun: args["dry-run"], ...told(args["dry-run"]) });
  },
});

function statusLines(found: ServiceStatus): string[] {
  const lines = [
    `installed   ${found.installed ? (found.version ?? "yes, of an unknown version") : "no"}`,
    `account     ${found.account ? "imdsproxy" : "none"}`,
    ...found.units.map((unit) => `${unit.name.padEnd(28)} ${unit.enabled}, ${unit.active}`),
  ];
  if (found.proxy?.kind === "not-root") {
    lines.push(
      "what callers get: the proxy tells only root (sudo imdsproxy service status); imdsproxy whoami shows your own role",
    );
  } else if (found.proxy?.kind === "answered" && found.proxy.problems.length === 0) {
    lines.push("what callers get: nothing keeps them from their credentials, as far as the proxy has seen");
  } else if (found.proxy?.kind === "answered") {
    lines.push(...found.proxy.problems.flatMap((problem) => problemLines(problem)));
  }
  lines.push(...found.notes.map((note) => `note: ${note}`));
  return lines;
}

const status = defineCommand({
  meta: {
    name: "status",
    description: "Whether the service runs and callers get their credentials; exit 1 if not",
  },
  args: { json: jsonArg },
  async run({ args }) {
    const { serviceStatus } = await import("../service/service-status.ts");
    const found = await serviceStatus();
    if (args.json) console.log(jsonText(found));
    else for (const line of statusLines(found)) say(line);
    if (!found.healthy) {
      const first = found.problems[0];
      throw new ImdsProxyError(
        "unhealthy",
        first?.what ?? "the service is not healthy",
        first?.remedy ?? null,
      );
    }
  },
});

/** Parses ADDRESS:PORT; a link-local IPv6 address has its interface in it: `[fe80::1%eth0]:9081`. */
function parseDirect(text: string): { address: string; port: number } | null {
  const [, zone = ""] = /^\[[^%\]]+(%[\w.@-]{1,15})\]/.exec(text) ?? [];
  const endpoint = parseEndpoint(text.replace(zone, ""));
  return endpoint === null ? null : { ...endpoint, address: `${endpoint.address}${zone}` };
}

const probe = defineCommand({
  meta: {
    name: "probe",
    description: "What this caller gets of the metadata service; setup runs it",
    hidden: true,
  },
  args: {
    "forbidden-role": {
      type: "string",
      description: "A role that the caller should not get",
      valueHint: "NAME",
    },
    direct: {
      type: "string",
      description: "Addresses to ask without the redirect",
      valueHint: "ADDRESS:PORT,…",
    },
  },
  async run({ args }) {
    const { probe } = await import("../service/probe.ts");
    const direct = (args.direct ?? "")
      .split(",")
      .map(parseDirect)
      .filter((endpoint) => endpoint !== null);
    console.log(jsonLine(await probe(args["forbidden-role"] ?? null, direct)));
  },
});

const recover = defineCommand({
  meta: {
    name: "recover",
    description: "Complete an interrupted setup; the unit of the rules runs it at boot",
    hidden: true,
  },
  async run() {
    const { completeInterrupted } = await import("../service/setup.ts");
    await completeInterrupted(say);
  },
});

export default defineCommand({
  meta: { name: "service", description: "Install, start, stop and remove the systemd service" },
  subCommands: { install, enable, disable, uninstall, status, probe, recover },
});
