/** The files of a release besides its executables, SHA256SUMS and signature. */
import { readFileSync } from "node:fs";
import { completionScript, type Shell } from "../../src/cli/completion-scripts.ts";
import { describeCommand } from "../../src/cli/describe.ts";
import type { Schema } from "../../src/cli/man-keys.ts";
import { PAGES } from "../../src/cli/man-pages.ts";
import { root } from "../../src/cli/root.ts";
import { configJsonSchema, configSchemaText } from "../../src/config/known-keys.ts";
import type { ReleaseFile } from "../release.ts";
import { licensesText } from "./licenses.ts";
import type { BundledPackage } from "./packages.ts";
import { sbomText } from "./sbom.ts";

export interface ReleaseFacts {
  readonly version: string;
  readonly commit: string;
  /** The day of the commit, as `2026-11-26`. */
  readonly date: string;
  readonly packages: readonly BundledPackage[];
}

/** Under the names by which each shell finds them. */
const COMPLETIONS: Readonly<Record<Shell, string>> = {
  bash: "imdsproxy.bash",
  zsh: "_imdsproxy",
  fish: "imdsproxy.fish",
};

/** The names of Prometheus' files in a release, and where they are in the repository. */
const PROMETHEUS: Readonly<Record<string, string>> = {
  "imdsproxy.rules.yml": "docs/prometheus/imdsproxy.rules.yml",
  "imdsproxy.dashboard.json": "docs/prometheus/dashboard.json",
};

export async function releaseFiles({
  version,
  commit,
  date,
  packages,
}: ReleaseFacts): Promise<ReleaseFile[]> {
  const program = await describeCommand(root);
  const source = { program, schema: configJsonSchema() as Schema, version, date };
  const { dependencies } = JSON.parse(readFileSync("package.json", "utf8")) as {
    readonly dependencies: Readonly<Record<string, string>>;
  };
  const direct = Object.keys(dependencies);
  return [
    { name: "install.sh", content: readFileSync("scripts/install.sh"), mode: 0o755 },
    { name: "config.schema.json", content: configSchemaText() },
    ...Object.entries(PAGES).map(([name, page]) => ({ name, content: page(source) })),
    ...Object.entries(COMPLETIONS).map(([shell, name]) => ({
      name,
      content: completionScript(shell as Shell, program),
    })),
    ...Object.entries(PROMETHEUS).map(([name, path]) => ({ name, content: readFileSync(path) })),
    {
      name: "imdsproxy.cdx.json",
      content: sbomText({ version, commit, date, bun: Bun.version, packages, direct }),
    },
    { name: "LICENSE", content: readFileSync("LICENSE") },
    { name: "THIRD-PARTY-LICENSES.txt", content: licensesText(packages, Bun.version) },
  ];
}
