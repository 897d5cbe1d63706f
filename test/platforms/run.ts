/**
 * Runs the platform tests: `bun test/platforms/run.ts [--no-record] [CELL[:SCENARIO,…]…]`, as root, in a mount namespace of its own (`make
 * test-platforms`). Without a cell every cell. A container cell takes ten minutes, a cell with its own kernel and systemd half an hour on an
 * idle machine; CI runs a container cell with few requests (test/boot/platform.test.ts). What was found is written to results/CELL.json after
 * each scenario, and of all results docs/platforms.md is made; with --no-record neither is written.
 *
 * IMDSPROXY_PLATFORM_REQUESTS (default 2500) and IMDSPROXY_PLATFORM_FLUSHES (default 100) say how often.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CELLS, type Cell, cellOf } from "./cells.ts";
import { type CellResult, renderPage } from "./page.ts";
import { backends } from "./scenarios/backends.ts";
import { boot } from "./scenarios/boot.ts";
import { clock } from "./scenarios/clock.ts";
import { conntrack } from "./scenarios/conntrack.ts";
import { disable } from "./scenarios/disable.ts";
import { flush } from "./scenarios/flush.ts";
import { imds } from "./scenarios/imds.ts";
import { install } from "./scenarios/install.ts";
import { kernel } from "./scenarios/kernel.ts";
import { mainJob } from "./scenarios/main-job.ts";
import { modules } from "./scenarios/modules.ts";
import { restart } from "./scenarios/restart.ts";
import { slurm } from "./scenarios/slurm.ts";
import { suspend } from "./scenarios/suspend.ts";
import { uids } from "./scenarios/uids.ts";
import { upgrade } from "./scenarios/upgrade.ts";
import type { Machine } from "./support/machine.ts";
import { buildPayload, type Payload, startNode } from "./support/node.ts";
import type { Check, Scenario } from "./support/scenario.ts";
import { REPOSITORY } from "./support/virtual-machine.ts";

const SYSTEMD: readonly Scenario[] = [
  install,
  mainJob,
  flush,
  uids,
  backends,
  restart,
  upgrade,
  clock,
  boot,
  disable,
];
/** What a cell of each kind runs that names no scenarios. The clock is the whole kernel's. */
const SCENARIOS: Readonly<Record<Cell["kind"], readonly Scenario[]>> = {
  machine: SYSTEMD,
  container: SYSTEMD.filter((one) => one !== clock),
  kernel: [kernel],
};
const ALL: readonly Scenario[] = [...SYSTEMD, kernel, conntrack, suspend, slurm, imds, modules];
const RESULTS = join(import.meta.dir, "results");
const PAGE = join(REPOSITORY, "docs/platforms.md");

const number = (name: string, otherwise: number) => Number(process.env[name] ?? otherwise);

async function versions(machine: Machine, { kind }: Cell): Promise<Record<string, string>> {
  const [kernel, systemd, iptables, iproute, slurmd] = (
    await machine.ok(
      "uname -r; systemctl --version | head -n 1; iptables --version; ip -V; slurmd -V 2>/dev/null || true",
    )
  ).split("\n");
  return {
    // Of the machine that runs the tests, its number alone.
    kernel: (kind === "container" ? kernel?.split("-")[0] : kernel) ?? "",
    systemd: systemd?.split(" ")[1] ?? "",
    iptables: iptables?.split(" ")[1] ?? "",
    iproute2: iproute?.split("-").at(-1) ?? "",
    ...(slurmd ? { slurm: slurmd.split(" ")[1] ?? "" } : {}),
  };
}

const arguments_ = process.argv.slice(2).filter((argument) => argument !== "--no-record");
const RECORDS = !process.argv.includes("--no-record");

async function runCell(cell: Cell, wanted: readonly Scenario[], payload: Payload): Promise<CellResult> {
  const machine = await startNode(cell, payload);
  try {
    const path = join(RESULTS, `${cell.name}.json`);
    const read = () =>
      existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as CellResult) : undefined;
    let result: CellResult = { cell: cell.name, versions: await versions(machine, cell), scenarios: {} };
    for (const scenario of wanted) {
      const checks: Check[] = [];
      const count = (what: string, tries: number, failures: number, found?: string) => {
        console.log(
          `${cell.name}: ${failures === 0 ? "ok  " : "FAIL"} ${what}: ${failures} of ${tries}  ${found ?? ""}`,
        );
        checks.push({
          what,
          tries,
          failures,
          ...(found === undefined || found === ""
            ? {}
            : { found: found.slice(0, failures === 0 ? 600 : 2000) }),
        });
      };
      const context = {
        cell,
        machine,
        count,
        holds: (what: string, holds: boolean, found?: string) => count(what, 1, holds ? 0 : 1, found),
        requests: number("IMDSPROXY_PLATFORM_REQUESTS", 2500),
        flushes: number("IMDSPROXY_PLATFORM_FLUSHES", 100),
      };
      try {
        await scenario.run(context);
      } catch (error) {
        count("the scenario runs to its end", 1, 1, String(error));
      }
      const date = new Date().toISOString().slice(0, 10);
      // Read anew: another run may try other scenarios of the same cell meanwhile.
      result = { ...result, scenarios: { ...read()?.scenarios, [scenario.name]: { date, checks } } };
      if (!RECORDS) continue;
      mkdirSync(RESULTS, { recursive: true });
      writeFileSync(path, `${JSON.stringify(result, null, 2)}\n`);
    }
    return result;
  } finally {
    await machine.destroy();
  }
}

const payloads = new Map<string, Payload>();
let failures = 0;
for (const argument of arguments_.length === 0 ? CELLS.map(({ name }) => name) : arguments_) {
  const [name = "", only] = argument.split(":");
  const cell = cellOf(name);
  const its =
    cell.scenarios === undefined
      ? SCENARIOS[cell.kind]
      : ALL.filter((one) => cell.scenarios?.includes(one.name));
  // By how their names begin: there are commas in them.
  const wanted = its.filter(
    (one) => only === undefined || only.split(",").some((word) => one.name.startsWith(word)),
  );
  const { architecture = "amd64" } = cell;
  const payload = payloads.get(architecture) ?? buildPayload(architecture);
  payloads.set(architecture, payload);
  const result = await runCell(cell, wanted, payload);
  for (const { name: scenario } of wanted) {
    for (const check of result.scenarios[scenario]?.checks ?? []) failures += check.failures === 0 ? 0 : 1;
  }
}
if (RECORDS) {
  const results = CELLS.map(({ name }) => join(RESULTS, `${name}.json`))
    .filter(existsSync)
    .map((path) => JSON.parse(readFileSync(path, "utf8")) as CellResult);
  writeFileSync(PAGE, renderPage(results));
}
console.log(failures === 0 ? "everything holds" : `${failures} do not hold`);
// A wait for a machine that has ended may still be under way.
process.exit(failures === 0 ? 0 : 1);
