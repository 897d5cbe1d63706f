/**
 * `make bench`: what a request costs the proxy, beside others on the same machine, in the same minutes and through the same redirect:
 *
 *   nginx     one worker, whose answers stand in its configuration
 *   bun       the least that a server by Bun can do (scripts/bench/hello.ts)
 *   bun + netlink  the same, where it asks the kernel whose each connection is
 *   before    another build of this program: BEFORE=path/to/imdsproxy make bench
 *
 * CPU time of the server per 10,000 requests is what noise hides the least. Rounds take turns, and each figure is the median of its
 * rounds. The latencies are of an open loop at one rate for all: half of what we reached. It writes the table of docs/benchmarks.md
 * and docs/benchmarks.svg where WRITE=1, and exits 1 where a row falls short of its bound. Needs root, wrk and nginx.
 *
 *   ROUNDS=5 SECONDS_EACH=3    how long
 *   WARM_REQUESTS=60000        before the first round of each server
 *   LATENCY_SECONDS=4          of the open loop; 0 for no latencies
 *   ROWS='tokens, new|meta'    only rows whose title has one of these parts
 *
 * `make bench-go` (GO=1) compares ours and `bun` with servers in Go instead, in a table of its own: the least that net/http can do, AWS's
 * helper for IAM Roles Anywhere, and AWS's mock of the metadata service.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import {
  bodiesOf,
  type Contestant,
  type Row,
  startHello,
  startIdentifyingHello,
  startNginx,
  startProxy,
} from "./bench/contestants.ts";
import { GO_SERVERS } from "./bench/go-servers.ts";
import { measureLatencies, measureRound, type Round } from "./bench/measure.ts";
import {
  type Bound,
  type Figures,
  type MeasuredRow,
  median,
  OURS,
  plotOf,
  shortfalls,
  tableOf,
  withTable,
} from "./bench/report.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 5);
const SECONDS = Number(process.env["SECONDS_EACH"] ?? 3);
const ONLY = (process.env["ROWS"] ?? "").split("|");
const GO = process.env["GO"] === "1";
/** What starts the servers that ours is compared with. */
const OTHERS = GO ? [startHello, ...GO_SERVERS] : [startNginx, startHello, startIdentifyingHello];
const PAGE = "docs/benchmarks.md";
/**
 * Requests before the first round, in which each server's code is compiled by its just-in-time compiler; where the machine has other
 * work, three seconds would be a tenth of them. At most so many seconds.
 */
const WARM_REQUESTS = Number(process.env["WARM_REQUESTS"] ?? 60_000);
const WARM_SECONDS = 30;
const LATENCY_SECONDS = Number(process.env["LATENCY_SECONDS"] ?? 4);

const ROWS: readonly Row[] = (
  [
    ["credentials", true],
    ["credentials", false],
    ["metadata", true],
    ["tokens", false],
  ] as const
).flatMap(([load, withToken]) => [true, false].map((isNew) => ({ load, withToken, isNew })));

const titleOf = ({ load, withToken, isNew }: Row): string =>
  `${load}${load === "tokens" ? "" : withToken ? " with a token" : " without a token"}, ${isNew ? "new" : "kept"}`;

/** See docs/benchmarks.md for where they come from. */
const BOUNDS: readonly Bound[] = [
  { other: "before", what: "cpu", ratio: 1.05, isNew: null },
  { other: "before", what: "rate", ratio: 0.95, isNew: null },
  { other: "bun", what: "cpu", ratio: 1.6, isNew: true },
  { other: "bun", what: "cpu", ratio: 1.25, isNew: false },
  { other: "bun + netlink", what: "cpu", ratio: 1.25, isNew: true },
  { other: "nginx", what: "rate", ratio: 0.95, isNew: true },
  { other: "nginx", what: "rate", ratio: 0.4, isNew: false },
  { other: "go net/http", what: "cpu", ratio: 1, isNew: null },
  { other: "rolesanywhere serve", what: "cpu", ratio: 1, isNew: null },
  { other: "ec2-metadata-mock", what: "cpu", ratio: 1, isNew: null },
];

async function warm(contestant: Contestant, row: Row): Promise<void> {
  let left = WARM_REQUESTS;
  for (let seconds = 0; left > 0 && seconds < WARM_SECONDS; seconds += 3)
    left -= (await measureRound(contestant, row, 3)).requests;
}

async function measured(all: readonly Contestant[], row: Row): Promise<MeasuredRow> {
  const contestants = all.filter((contestant) => contestant.serves?.(row) ?? true);
  const rounds = new Map<string, Round[]>(contestants.map(({ name }) => [name, []]));
  for (const contestant of contestants) await warm(contestant, row);
  for (let round = 0; round < ROUNDS; round++) {
    for (const contestant of contestants)
      rounds.get(contestant.name)?.push(await measureRound(contestant, row, SECONDS));
  }
  const ours = median((rounds.get(OURS) ?? []).map(({ perSecond }) => perSecond));
  const figures: Figures[] = [];
  for (const contestant of contestants) {
    const own = rounds.get(contestant.name) ?? [];
    figures.push({
      name: contestant.name,
      perSecond: median(own.map(({ perSecond }) => perSecond)),
      userSeconds: median(own.map(({ userSeconds }) => userSeconds)),
      systemSeconds: median(own.map(({ systemSeconds }) => systemSeconds)),
      latencies:
        LATENCY_SECONDS === 0
          ? null
          : await measureLatencies(contestant, row, Math.floor(ours / 2), LATENCY_SECONDS),
    });
  }
  return { title: titleOf(row), isNew: row.isNew, figures };
}

function machine(): string {
  const other = GO
    ? Bun.spawnSync(["go", "version"]).stdout.toString().trim()
    : Bun.spawnSync(["nginx", "-v"]).stderr.toString().trim();
  const load = readFileSync("/proc/loadavg", "utf8").split(" ").slice(0, 3).join(" ");
  return [
    `${new Date().toISOString().slice(0, 10)}, ${cpus().length} x ${cpus()[0]?.model ?? "unknown"}, Linux ${release()}`,
    `Bun ${Bun.version}, ${other}, load ${load} at the end, ROUNDS=${ROUNDS} SECONDS_EACH=${SECONDS}`,
  ].join("; ");
}

const contestants: Contestant[] = [];
try {
  const ours = await startProxy(OURS, null);
  contestants.push(ours);
  const before = process.env["BEFORE"];
  if (before !== undefined) contestants.push(await startProxy("before", before));
  const bodies = await bodiesOf(ours);
  for (const start of OTHERS) contestants.push(await start(bodies));

  const rows: MeasuredRow[] = [];
  for (const row of ROWS) {
    if (!ONLY.some((part) => titleOf(row).includes(part))) continue;
    const one = await measured(contestants, row);
    rows.push(one);
    console.log(tableOf([one]));
  }
  console.log(machine());
  if (process.env["WRITE"] === "1") {
    const page = readFileSync(PAGE, "utf8");
    writeFileSync(
      PAGE,
      withTable(page, `${machine()}\n\n${tableOf(rows)}`, GO ? "make bench-go" : "make bench"),
    );
    if (!GO) writeFileSync("docs/benchmarks.svg", plotOf(rows));
  }
  const short = shortfalls(rows, BOUNDS);
  for (const line of short) console.error(`bench: ${line}`);
  if (short.length > 0) process.exitCode = 1;
} finally {
  for (const contestant of contestants) await contestant.stop();
}
process.exit(process.exitCode);
