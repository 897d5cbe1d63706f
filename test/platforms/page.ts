/** docs/platforms.md, made of what the runs wrote down. Pure. */
import { CELLS } from "./cells.ts";
import type { Check } from "./support/scenario.ts";

/** What was found of a cell: the versions that it had, and each scenario's checks with the day on which it ran. */
export interface CellResult {
  readonly cell: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly scenarios: Readonly<Record<string, { readonly date: string; readonly checks: readonly Check[] }>>;
}

const row = (...cells: readonly (string | number)[]) => `| ${cells.join(" | ")} |`;
const plain = (text: string) => text.replaceAll("|", "\\|").replaceAll(/\s+/g, " ").trim();

/** The page. */
export function renderPage(results: readonly CellResult[]): string {
  const ran = (name: string) => results.find(({ cell }) => cell === name);
  const tried = CELLS.filter(({ name }) => ran(name) !== undefined);
  const untried = CELLS.filter(({ name }) => ran(name) === undefined);
  const lines = [
    "# Platforms: what was tried where",
    "",
    "Written by `make test-platforms` (`test/platforms/run.ts`); do not edit. Every cell is made of Debian's packages alone. HyperPod's agent and",
    "STS are stand-ins. CI does not run it.",
    "",
    "- `userland-…` boots a release's own userland, systemd included, on the kernel of the machine that ran the tests, which stands in brackets. It",
    "  says nothing of the release's own kernel.",
    "- `kernel-…` boots a release's own kernel in a virtual machine emulated by qemu, without systemd: rules, second wall, who a caller is, flushes.",
    "- A cell by a release's name alone is such a machine with systemd and everything else; half an hour each on a machine that does nothing else.",
    "",
    row(
      "cell",
      "kernel",
      "systemd",
      "iptables",
      "iproute2",
      "Slurm",
      "sentences tried",
      "that failed",
      "tries",
      "days",
    ),
    row(..."----------".split("").map(() => "---")),
    ...tried.map(({ name, kind }) => {
      const result = ran(name) as CellResult;
      const { kernel = "", systemd = "", iptables = "", iproute2 = "", slurm = "" } = result.versions;
      const checks = Object.values(result.scenarios).flatMap((one) => one.checks);
      const tries = checks.reduce((sum, one) => sum + one.tries, 0);
      const failed = checks.filter((one) => one.failures > 0).length;
      const days = [...new Set(Object.values(result.scenarios).map(({ date }) => date))].sort();
      return row(
        name,
        kind === "container" ? `(${kernel})` : kernel,
        kind === "kernel" ? "" : systemd,
        iptables.replace(/^v/, ""),
        iproute2.split(",")[0] ?? "",
        slurm,
        checks.length,
        failed,
        tries,
        days.join(", "),
      );
    }),
    "",
    "Tries are requests: a caller's own, and in the sentences about flushes and boots an attacker's.",
    "",
    ...(untried.length === 0
      ? []
      : [
          "Described and not run yet:",
          "",
          ...untried.map(({ name, about, kind }) => `- ${name} (${kind}): ${about}`),
          "",
        ]),
    "Not tried at all: Ubuntu 20.04, 22.04, 24.04 and Amazon Linux 2023, SELinux enforcing, arm64. Of what matters here (kernel, systemd, iptables)",
    "Ubuntu 22.04 (5.15 or newer, 249, 1.8.7) lies between Debian 11 and 12, Ubuntu 24.04 (6.8, 255, 1.8.10) between Debian 12 and 13, Amazon",
    "Linux 2023 (6.1, 252, 1.8.8) beside Debian 12; Ubuntu 20.04 (5.4 or 5.15, 245, 1.8.4) has an older systemd than any cell. systemd's lock of the",
    "metadata address was tried with the routes that it makes (`test/node/imds-lock.test.ts`), not with systemd 262 itself. What a real Slurm",
    "22.05.8 does stands in docs/slurm.md.",
  ];
  for (const { cell, scenarios } of results) {
    lines.push("", `## ${cell}`);
    for (const [name, { date, checks }] of Object.entries(scenarios)) {
      lines.push(
        "",
        `### ${name} (${date})`,
        "",
        row("what", "tries", "failures", "found"),
        row("---", "---", "---", "---"),
      );
      for (const { what, tries, failures, found = "" } of checks) {
        lines.push(row(plain(what), tries, failures, plain(found).slice(0, 300)));
      }
    }
  }
  return `${lines.join("\n")}\n`;
}
