import { defineCommand } from "citty";
import { ImdsProxyError } from "../errors.ts";
import { version } from "../version.ts";
import { configArg, jsonArg } from "./common.ts";

const DEFAULT_USER = "nobody";

export default defineCommand({
  meta: {
    name: "doctor",
    description:
      "Try every way past the proxy, and look for weaknesses that no proxy can close; `doctor list` and `doctor explain ID` describe the checks",
  },
  args: {
    action: {
      type: "positional",
      description: "list: describe all checks; explain: one at length; without it, run them",
      required: false,
    },
    id: { type: "positional", description: "The check that explain is to describe", required: false },
    as: {
      type: "string",
      description: "The ordinary account to try as",
      default: DEFAULT_USER,
      valueHint: "USER",
    },
    admin: {
      type: "string",
      description: "Accounts that may become root: they are not reported",
      valueHint: "USER[,USER]",
    },
    "network-homes": {
      type: "boolean",
      description: "Look into homes on network file systems as well",
      default: false,
    },
    config: configArg,
    json: jsonArg,
    sarif: { type: "boolean", description: "Print SARIF 2.1.0", default: false },
  },
  async run({ args }) {
    const { CHECKS } = await import("../doctor/checks.ts");
    const { explainText, listText, reportText } = await import("../doctor/render.ts");
    const { harmlessJson } = await import("../doctor/harmless.ts");
    const described = CHECKS.map(({ run: _, ...check }) => check);
    if (args.action === "list") {
      if (args.id !== undefined) throw surplus(args.id);
      console.log(args.json ? harmlessJson(described) : listText(CHECKS));
      return;
    }
    if (args.action === "explain") {
      const check = CHECKS.find(({ id }) => id === args.id);
      if (check === undefined) {
        throw new ImdsProxyError(
          "usage",
          args.id === undefined
            ? "doctor explain: which check?"
            : `doctor explain: there is no check ${JSON.stringify(args.id)}`,
          `one of ${CHECKS.map(({ id }) => id).join(", ")}`,
        );
      }
      console.log(args.json ? harmlessJson(described.find(({ id }) => id === check.id)) : explainText(check));
      return;
    }
    if (args.action !== undefined) throw surplus(args.action);
    if (args.json && args.sarif) {
      throw new ImdsProxyError("usage", "doctor: --json and --sarif exclude each other", "name one of them");
    }
    if (process.geteuid?.() !== 0) {
      throw new ImdsProxyError("usage", "doctor: not running as root", "run it with sudo");
    }
    const { build } = await import("../doctor/build.ts");
    const { gather } = await import("../doctor/gather/inputs.ts");
    const { sarif } = await import("../doctor/sarif.ts");
    const report = build(
      await gather({
        as: args.as,
        admins: (args.admin ?? "").split(",").filter((name) => name !== ""),
        configFile: args.config,
        networkHomes: args["network-homes"],
      }),
    );
    if (args.sarif) console.log(harmlessJson(sarif(report, CHECKS, version)));
    else console.log(args.json ? harmlessJson(report) : reportText(report));
    if (report.open) process.exitCode = 1;
  },
});

const surplus = (found: string) =>
  new ImdsProxyError(
    "usage",
    `doctor: does not take the argument ${JSON.stringify(found)}`,
    "imdsproxy doctor, imdsproxy doctor list, or imdsproxy doctor explain ID",
  );
