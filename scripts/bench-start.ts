/**
 * `make bench-start`: the time from exec to the first answer, and the processor time that it takes, beside the minimal server by Bun
 * (scripts/bench/hello.ts) and, where BEFORE=path/to/imdsproxy is given, another build. The first answer is one of metadata; that of
 * credentials includes the AWS SDK and a request to the stand-in for STS. Runs take turns; each figure is the median of its runs, with the
 * least in brackets, which other work on the machine changes the least. It exits 1 where the processor time exceeds a bound. Needs root.
 * RUNS=10 is how often.
 */

import { startTestNode } from "../test/support/node.ts";
import { configure, LOADS, NODE } from "./bench/contestants.ts";
import type { FirstAnswer, Started } from "./bench/first-answer.ts";
import { median } from "./bench/report.ts";

const RUNS = Number(process.env["RUNS"] ?? 10);
const PORT = 254;
const ROOT = { user: "root" } as const;
const BEFORE = "/run/imdsproxy-before";

/**
 * The most processor time until the first answer of metadata, by that of another: `bun` is what stands in docs/benchmarks.md (4.2) with a
 * margin, by which an answer within 0.12 s of exec holds on a machine at rest.
 */
const BOUNDS: Readonly<Record<string, number>> = { "bun, metadata": 5.5, "before, metadata": 1.1 };

const before = process.env["BEFORE"];
const show = { ...NODE.show, ...(before === undefined ? {} : { [BEFORE]: before }) };
const node = await startTestNode({ ...NODE, show });
try {
  await configure(node);
  node.write("/run/bodies.json", JSON.stringify({ [LOADS.metadata]: "us-west-2" }));
  const hello = [
    "/run/bin/bun",
    "/run/imdsproxy-bench/scripts/bench/hello.ts",
    String(PORT),
    "/run/bodies.json",
  ];
  const builds: [name: string, executable: string][] = [["imdsproxy", "/run/bin/imdsproxy"]];
  if (before !== undefined) builds.push(["before", BEFORE]);
  const rows: [name: string, what: Omit<FirstAnswer, "runs">][] = [
    ["bun, metadata", { argv: hello, port: PORT, path: LOADS.metadata }],
    ...(["metadata", "credentials"] as const).flatMap((load) =>
      builds.map(([name, executable]): [string, Omit<FirstAnswer, "runs">] => [
        `${name}, ${load}`,
        { argv: [executable, "serve"], port: PORT, path: LOADS[load] },
      ]),
    ),
  ];
  const started = new Map<string, Started[]>(rows.map(([name]) => [name, []]));
  for (let run = 0; run < RUNS; run++) {
    for (const [name, what] of rows) {
      const argv = [
        "/run/bin/bun",
        "/run/imdsproxy-bench/scripts/bench/first-answer.ts",
        JSON.stringify({ ...what, runs: 1 } satisfies FirstAnswer),
      ];
      const { stdout, stderr } = await node.exec({ ...ROOT, argv });
      if (!stdout.startsWith("[")) throw new Error(`${name}: ${stdout}${stderr}`);
      started.get(name)?.push(...(JSON.parse(stdout) as Started[]));
    }
  }
  console.log("| server, first answer | ms from exec | CPU ms until then |\n| --- | --- | --- |");
  for (const [name, runs] of started) {
    const cell = (values: readonly number[]) =>
      `${median(values).toFixed(0)} (${Math.min(...values).toFixed(0)})`;
    console.log(`| ${name} | ${cell(runs.map(({ ms }) => ms))} | ${cell(runs.map(({ cpuMs }) => cpuMs))} |`);
  }
  const cpuOf = (name: string) => median((started.get(name) ?? []).map(({ cpuMs }) => cpuMs));
  for (const [name, bound] of Object.entries(BOUNDS)) {
    const ratio = cpuOf("imdsproxy, metadata") / cpuOf(name);
    // Not a number where there is no such row.
    if (!(ratio > bound)) continue;
    console.error(
      `bench-start: CPU time is ${ratio.toFixed(2)} of that of "${name}", at most ${bound} is wanted`,
    );
    process.exitCode = 1;
  }
} finally {
  await node.stop();
}
process.exit(process.exitCode);
