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
  const lines = [
    "# Platforms: what was tried where",
    "",
    "Written by `make test-platforms` (`test/platforms/run.ts`); do not edit. Each cell is a virtual machine with its own kernel, emulated by",
    "qemu, installed from Debian's packages. HyperPod's agent and STS are stand-ins. CI does not run it: a cell takes half an hour.",
    "",
    row(
      "cell",
      "kernel",
      "systemd",
      "iptables",
      "iproute2",
      "sentences tried",
      "that failed",
      "tries",
      "days",
    ),
    row(..."---------".split("").map(() => "---")),
    ...CELLS.map(({ name, about }) => {
      const result = ran(name);
      if (result === undefined) return row(name, `not tried (${about})`, "", "", "", 0, 0, 0, "");
      const { kernel = "", systemd = "", iptables = "", iproute2 = "" } = result.versions;
      const checks = Object.values(result.scenarios).flatMap((one) => one.checks);
      const tries = checks.reduce((sum, one) => sum + one.tries, 0);
      const failed = checks.filter((one) => one.failures > 0).length;
      const days = [...new Set(Object.values(result.scenarios).map(({ date }) => date))].sort();
      return row(name, kernel, systemd, iptables, iproute2, checks.length, failed, tries, days.join(", "));
    }),
    "",
    "Not tried: Ubuntu 20.04, 22.04, 24.04 and Amazon Linux 2023, SELinux enforcing, arm64. Of what matters here (kernel, systemd, iptables)",
    "Ubuntu 22.04 (5.15 or newer, 249, 1.8.7) lies between the cells bullseye and bookworm, Ubuntu 24.04 (6.8, 255, 1.8.10) between bookworm and",
    "trixie, Amazon Linux 2023 (6.1, 252, 1.8.8) beside bookworm; Ubuntu 20.04 (5.4 or 5.15, 245, 1.8.4) has an older systemd than any.",
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
