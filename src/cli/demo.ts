import { constants } from "node:os";
import { defineCommand } from "citty";
import { DATA_GROUP, DATA_ROLE, DEFAULT_ROLE } from "../demo/checks.ts";
import { type DemoProgress, runDemo } from "../demo/demo.ts";
import { groundProblem, surveyGround } from "../demo/preflight.ts";
import { type ReportRow, renderReport } from "../demo/report.ts";
import { ImdsProxyError } from "../errors.ts";
import { monotonicMs } from "../platform/clock.ts";
import { compiledExecutable } from "../platform/self.ts";
import { jsonArg } from "./common.ts";
import { jsonText, takesColours } from "./terminal.ts";

const INTRODUCTION = `A shared node on AWS has one role, and whoever asks its metadata service gets it: every user.
This shows such a node, then the same node with imdsproxy. It all happens in namespaces of
this machine: no AWS account is used, and nothing of the machine is changed.
`;

/** Progress goes to standard error, so that the report can be piped. */
function terminalProgress(): DemoProgress {
  return {
    step(text) {
      const startedMs = monotonicMs();
      process.stderr.write(`  ${text} … `);
      return () => process.stderr.write(`${((monotonicMs() - startedMs) / 1000).toFixed(1)} s\n`);
    },
  };
}

/** Signals such as Ctrl-C abort the demo, so that the node is removed before this process exits. */
function onSignals(): { interrupted: AbortSignal; release(): void } {
  const controller = new AbortController();
  const handlers = (["SIGINT", "SIGTERM", "SIGHUP"] as const).map((signal) => {
    const handler = () => controller.abort(signal);
    process.on(signal, handler);
    return [signal, handler] as const;
  });
  return {
    interrupted: controller.signal,
    release: () => {
      for (const [signal, handler] of handlers) process.off(signal, handler);
    },
  };
}

const ended = (rows: readonly ReportRow[]): string =>
  `\nThe configuration was: ${DEFAULT_ROLE} for everyone, ${DATA_ROLE} for the group ${DATA_GROUP}, in which bob is.
The node is gone. ${rows.filter(({ ok }) => ok).length} of ${rows.length} as promised.`;

export default defineCommand({
  meta: {
    name: "demo",
    description:
      "Show the main job on a simulated node: alice gets a lesser role, root keeps the instance role",
  },
  args: { json: jsonArg },
  async run({ args }) {
    const problem = groundProblem(surveyGround(compiledExecutable()));
    if (problem !== null) throw problem;
    const { interrupted, release } = onSignals();
    if (!args.json) process.stderr.write(`${INTRODUCTION}\n`);
    try {
      const rows = await runDemo(terminalProgress(), interrupted);
      const color = takesColours(process.stdout);
      console.log(
        args.json
          ? jsonText({ ok: rows.every(({ ok }) => ok), rows })
          : `\n${renderReport(rows, color)}\n${ended(rows)}`,
      );
      if (rows.every(({ ok }) => ok)) return;
      throw new ImdsProxyError(
        "unhealthy",
        "the demo did not show what imdsproxy promises",
        "see the rows marked WRONG",
      );
    } catch (error) {
      if (!interrupted.aborted) throw error;
      process.stderr.write("\ninterrupted; the node is gone\n");
      const signal = interrupted.reason as "SIGINT" | "SIGTERM" | "SIGHUP";
      process.exitCode = 128 + constants.signals[signal];
    } finally {
      release();
    }
  },
});
