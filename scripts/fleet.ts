/**
 * `make fleet`: what a cluster asks of STS, by the broker's own code on a virtual clock, against the quota of an AWS account
 * (scripts/fleet/account.ts has its source). Prints a table; with WRITE=1 writes it into docs/scale.md, and the plots to docs/scale.svg.
 *
 *   NODES=10000 IDENTITIES=50 QUOTA=600 SEED=1   the cluster; a smaller one with a quota that is smaller by as much behaves alike
 *   ONLY=day,outage                              some of the scenarios
 *   KEEP=DIRECTORY                               keeps the samples of each run there, and does not repeat a run whose samples are there:
 *                                                a day of 10,000 nodes takes long. Another directory for other code.
 *
 * Exits with 1 where, in steady state, a minute has more than 1.5 times the mean of calls, or where a wave after an outage exceeds the first.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { withTable } from "./bench/report.ts";
import type { Sample } from "./fleet/fleet.ts";
import { type Panel, plotOf } from "./fleet/plot.ts";
import { SCENARIOS, type Scenario, type Size, samplesOf, summaryOf } from "./fleet/scenarios.ts";

const number = (name: string, standard: number) => Number(process.env[name] ?? standard);
const size = {
  ...{ nodes: number("NODES", 10_000), identities: number("IDENTITIES", 50) },
  ...{ quota: number("QUOTA", 600), seed: number("SEED", 1) },
};
const ONLY = process.env["ONLY"]?.split(",") ?? SCENARIOS.map(({ id }) => id);
const PAGE = "docs/scale.md";
const SAMPLE_SECONDS = 60;
/** The first wave of an outage is the outage, and a quarter of an hour after it. */
const OUTAGE_SECONDS = 45 * 60;
const MOST_BY_MEAN = 1.5;

const whole = (value: number) => Math.round(value).toLocaleString("en-US");
const rows = [
  "| | jitter | most calls a second | all have a session after | most without one | then: mean | most by mean |",
  "| --- | --- | --- | --- | --- | --- | --- |",
];
const panels: Panel[] = [];
const shortfalls: string[] = [];

/** The samples of one run: those that KEEP has, or of a run that is made now. */
async function samplesKept(scenario: Scenario, options: Size): Promise<readonly Sample[]> {
  const keep = process.env["KEEP"];
  const run = () => samplesOf(scenario, options, SAMPLE_SECONDS);
  if (keep === undefined) return run();
  const { nodes, identities, quota, seed, jitter } = options;
  const path = join(keep, `${[scenario.id, nodes, identities, quota, seed, jitter].join("-")}.json`);
  if (existsSync(path)) return JSON.parse(readFileSync(path, "utf8")) as Sample[];
  const began = performance.now();
  const samples = await run();
  const { user, system } = process.cpuUsage();
  console.error(
    `fleet: ${path}: ${whole((performance.now() - began) / 1_000)} s; so far ${whole((user + system) / 1e6)} s of CPU time`,
  );
  mkdirSync(keep, { recursive: true });
  writeFileSync(path, JSON.stringify(samples));
  return samples;
}

function secondIsLower(samples: readonly Sample[]): boolean {
  const most = (part: readonly Sample[]) => Math.max(...part.map(({ calls }) => calls));
  const first = OUTAGE_SECONDS / SAMPLE_SECONDS;
  return most(samples.slice(first)) < most(samples.slice(0, first));
}

for (const scenario of SCENARIOS.filter(({ id }) => ONLY.includes(id))) {
  const { id, title } = scenario;
  const lines: { name: string; samples: readonly Sample[] }[] = [];
  for (const jitter of [true, false]) {
    const samples = await samplesKept(scenario, { ...size, jitter });
    lines.push({ name: jitter ? "with jitter" : "without jitter", samples });
    const one = summaryOf(samples, id === "outage" ? OUTAGE_SECONDS : 0);
    const served = one.served === null ? "not at all" : `${whole(one.served / 60)} min`;
    const cells = [
      title,
      jitter ? "yes" : "no",
      whole(one.peak),
      served,
      whole(one.without),
      one.mean.toFixed(1),
    ];
    const row = `| ${[...cells, one.peakByMean.toFixed(2)].join(" | ")} |`;
    rows.push(row);
    console.log(row);
    if (!jitter) continue;
    if (one.peakByMean > MOST_BY_MEAN)
      shortfalls.push(`${title}: a minute has ${one.peakByMean.toFixed(2)} times the mean`);
    if (one.served === null) shortfalls.push(`${title}: not all have a session at the end`);
    if (id === "outage" && !secondIsLower(samples))
      shortfalls.push(`${title}: a later wave exceeds the first`);
  }
  panels.push({ title, lines, quota: size.quota });
}
const text = `${whole(size.nodes)} nodes, ${size.identities} identities each, a quota of ${size.quota} calls a second, seed ${size.seed}:

${rows.join("\n")}
`;
console.log(`\n${text}`);
if (process.env["WRITE"] === "1") {
  writeFileSync(PAGE, withTable(readFileSync(PAGE, "utf8"), text, "make fleet"));
  writeFileSync("docs/scale.svg", plotOf(panels));
}
for (const one of shortfalls) console.error(`fleet: ${one}`);
if (shortfalls.length > 0) process.exitCode = 1;
