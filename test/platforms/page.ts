/** docs/platforms.md, made of what the runs wrote down. Pure. */
import { CELLS, cellOf } from "./cells.ts";
import type { Check } from "./support/scenario.ts";

/** What was found of a cell: the versions that it had, and each scenario's checks with the day on which it ran. */
export interface CellResult {
  readonly cell: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly scenarios: Readonly<Record<string, { readonly date: string; readonly checks: readonly Check[] }>>;
}

const row = (...cells: readonly (string | number)[]) => `| ${cells.join(" | ")} |`;
const plain = (text: string) => text.replaceAll(/\s+/g, " ").trim();
const grouped = (number: number) => number.toLocaleString("en");
/** Kinds of answers that are told of one sentence; the rest is summed up. */
const KINDS = 3;

/** What was found, as a person says it; the runs write down objects of counts, which may be cut off. */
export function foundText(found: string): string {
  if (!found.startsWith("{")) return plain(found).slice(0, 120);
  const counts = [...found.matchAll(/"([^"]+)":(\d+)/g)].map(([, what = "", count]) => ({
    what,
    count: Number(count),
  }));
  const of = (what: string) => counts.find((one) => one.what === what)?.count ?? 0;
  if (counts.some(({ what }) => what === "instance")) {
    const errors = counts.filter(({ what }) => !["asked", "own", "instance", "other"].includes(what));
    const failed = errors.reduce((sum, { count }) => sum + count, 0);
    const given = `${grouped(of("own"))} own, ${grouped(of("instance"))} the instance role's, ${grouped(of("other"))} others'`;
    return failed === 0 ? given : `${given}, ${grouped(failed)} connections that ended early`;
  }
  const most = [...counts].sort((a, b) => b.count - a.count);
  const rest = most.slice(KINDS).reduce((sum, { count }) => sum + count, 0);
  const told = most.slice(0, KINDS).map(({ what, count }) => `${grouped(count)} ${what}`);
  return [...told, ...(rest === 0 ? [] : [`${grouped(rest)} others`])].join(", ");
}

/** One scenario's sentences: those of many tries and those that failed by themselves, the rest in a line. */
function sentences(checks: readonly Check[]): string[] {
  const single = checks.filter(({ tries, failures }) => tries === 1 && failures === 0);
  const lines = checks
    .filter((one) => !single.includes(one))
    .map(({ what, tries, failures, found = "" }) => {
      const text = found === "" ? "" : `: ${foundText(found)}`;
      const times = tries === 1 ? "" : ` (${grouped(tries)} tries)`;
      return failures === 0
        ? `- ${plain(what)}${times}${text}`
        : `- **FAILED ${grouped(failures)} of ${grouped(tries)}**: ${plain(what)}${text}`;
    });
  if (single.length > 0) lines.push(`- Once each: ${single.map(({ what }) => plain(what)).join("; ")}.`);
  return lines;
}

/** What no cell is of. */
const NEVER = ["Ubuntu 20.04, 22.04, 24.04 and Amazon Linux 2023", "SELinux enforcing"];

/** What is known of arm64 beside what its cells found. */
const ARM64 = [
  "**The cells of arm64 ran on an emulated Cortex-A72; on another emulated processor the proxy crashed.** `serve` of",
  "`imdsproxy-linux-arm64` was started in machines that qemu 7.2 emulates",
  "(Debian 12, kernel 6.1, 2026-11-26). With qemu's processor `max` it ended by a segmentation fault of Bun 1.4.5's, at its start or at the first",
  "requests, in 15 of 30 starts, and then users are refused. With its Cortex-A72, which has none of the features that came after ARMv8.0, it",
  "did so in 0 of 17 starts, and alice had her role each time. As a program that `qemu-aarch64` runs with",
  "the features of `max` on another kernel, with the netlink sockets given to it, it did so in 0 of 16. As root in a machine with `max`, each start",
  "asked for 15 tokens past the redirect, it did so in 0 of 6 (2026-11-27). This points to the emulation of a whole",
  "machine with newer features and does not prove it: few starts, on a busy machine. No real machine was tried: try it before you rely on it.",
];

/** What the cells found. */
const FOUND = [
  "**What failed in a cell, and is mended.** In the cells `bullseye` and `userland-bookworm` (2026-11-27), after the switch of iptables back from",
  "legacy to nft, alice's first connection had no answer for 20 s. Her own attack had begun connections while the rules were flushed; the second",
  "wall had dropped them, but the kernel went on tracking them for two minutes, and the port of one was taken again. Whoever repairs the rules now",
  "deletes such entries (`test/attack/begun-while-open.test.ts`).",
];

/** The page. */
export function renderPage(results: readonly CellResult[]): string {
  const ran = (name: string) => results.find(({ cell }) => cell === name);
  const tried = CELLS.filter(({ name }) => ran(name) !== undefined);
  /** What the same release's container has tried and this machine has not. */
  const notTried = (name: string): readonly string[] => {
    const { kind, suite, scenarios } = cellOf(name);
    if (kind !== "machine" || scenarios !== undefined) return [];
    const its = Object.keys(ran(name)?.scenarios ?? {});
    return Object.keys(ran(`userland-${suite}`)?.scenarios ?? {}).filter((one) => !its.includes(one));
  };
  const untried = CELLS.filter(({ name }) => ran(name) === undefined);
  const missing = [...(results.some(({ scenarios }) => "suspend" in scenarios) ? [] : ["suspend"])];
  const lines = [
    "# Platforms: what was tried where",
    "",
    "A cell is a node made of Debian's packages alone, on which the same sentences are tried. HyperPod's agent and STS are stand-ins. CI runs",
    "`userland-trixie` with few requests (`test/boot/platform.test.ts`; `userland-bookworm` where its mirror has no Debian 13).",
    "`make test-platforms CELLS=NAME` runs a cell again and writes this page (`test/platforms/run.ts`); do not edit it.",
    "",
    row("cell", "kernel", "systemd", "iptables", "iproute2", "Slurm", "sentences", "failed", "tries", "days"),
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
        grouped(tries),
        days.join(", "),
      );
    }),
    "",
    "- `userland-…`: the release's own systemd, iptables and Slurm in a container, on the kernel of the machine that ran the tests, in brackets.",
    "  This says nothing of the release's own kernel.",
    "- `kernel-…`: the release's own kernel in a machine that qemu emulates, without systemd: rules, second wall, who a caller is, flushes.",
    "- The others: a machine that qemu emulates, with the release's own kernel and systemd.",
    "- `userland-imds-…`: what systemd's hardware database says of an instance of EC2 stands on the command line of the container's systemd, and",
    "  169.254.169.254 is another network namespace's, beyond a veth pair (`test/platforms/support/ec2.ts`).",
    "- Tries are requests: a caller's own, and in the sentences about flushes and boots an attacker's.",
    "- In `userland-slurm-…`, slurmd is shown the cgroup v2 of the container alone, not the cgroup v1 of the machine below",
    "  (`test/platforms/programs/cgroup-v2-only.c`).",
    "",
    ...(untried.length === 0
      ? []
      : [
          "Described and not run yet:",
          "",
          ...untried.map(({ name, about, kind }) => `- ${name} (${kind}): ${about}`),
          "",
        ]),
    `Not tried at all: ${[...NEVER, ...missing].join(", ")}. Of what matters here (kernel, systemd,`,
    "iptables) Ubuntu 22.04 (5.15 or newer, 249, 1.8.7) lies between Debian 11 and 12, Ubuntu 24.04 (6.8, 255, 1.8.10) between Debian 12 and 13,",
    "Amazon Linux 2023 (6.1, 252, 1.8.8) beside Debian 12; Ubuntu 20.04 (5.4 or 5.15, 245, 1.8.4) has an older systemd than any cell. systemd's",
    "lock of the metadata address was tried with systemd 262 itself in the cells `userland-imds-…`. What a real Slurm does stands in",
    "[slurm.md](slurm.md).",
    "",
    ...ARM64,
    "",
    ...FOUND,
  ];
  for (const { name } of tried) {
    lines.push("", `## ${name}`);
    const left = notTried(name);
    if (left.length > 0) lines.push("", `Not tried in this cell: ${left.join("; ")}.`);
    for (const [scenario, { date, checks }] of Object.entries(ran(name)?.scenarios ?? {})) {
      lines.push("", `### ${scenario} (${date})`, "", ...sentences(checks));
    }
  }
  return `${lines.join("\n")}\n`;
}
