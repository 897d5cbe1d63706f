import { harmless } from "./harmless.ts";
import type { Check, Report } from "./types.ts";

/** The report as SARIF 2.1.0 (OASIS, "Static Analysis Results Interchange Format"), for tools that collect findings. Pure. */

const LEVELS = { open: "error", warning: "warning" } as const;

/** @param version of this program. */
export function sarif(report: Report, checks: readonly Check[], version: string): object {
  return {
    $schema: "https://json.schemastore.org/sarif-2.1.0.json",
    version: "2.1.0",
    runs: [
      {
        tool: {
          driver: {
            name: "imdsproxy doctor",
            semanticVersion: version,
            rules: checks.map(({ id, title, level, why, remedy, command, explain }) => ({
              id,
              shortDescription: { text: title },
              fullDescription: { text: explain.join("\n\n") },
              help: { text: `${why}. To mend it: ${remedy}: ${command}` },
              defaultConfiguration: { level: LEVELS[level] },
            })),
          },
        },
        invocations: [
          {
            executionSuccessful: true,
            toolExecutionNotifications: report.unchecked.map(({ id, why }) => ({
              level: "note",
              associatedRule: { id, index: checks.findIndex((check) => check.id === id) },
              message: { text: `could not be looked at: ${harmless(why)}` },
            })),
          },
        ],
        results: report.findings.map(({ id, level, what, remedy, command, source }) => ({
          ruleId: id,
          ruleIndex: checks.findIndex((check) => check.id === id),
          level: LEVELS[level],
          message: { text: `${harmless(what)}. To mend it: ${harmless(remedy)}: ${harmless(command)}` },
          locations: [{ logicalLocations: [{ name: harmless(source), kind: "resource" }] }],
          // Stable for as long as the same is found, so that a tool can tell what is new.
          partialFingerprints: {
            "found/v1": new Bun.CryptoHasher("sha256").update(`${id}\0${what}`).digest("hex"),
          },
        })),
      },
    ],
  };
}
