/**
 * Runs the tests: `bun scripts/run-tests.ts [PATH…]`. With paths, those and nothing else. Without, all, in three lanes at
 * once, since most tests wait for other programs: the booted nodes, the simulated nodes and the rest; and then, with the
 * machine to themselves, the attacks that measure how long a user waits or race the node (ALONE). What needs a registry or hours (OPT_IN) has a target
 * of its own.
 *
 * What failed is printed once more before the last paragraph, since the lane that it belongs to may have ended long before and
 * whoever reads the end of a long output has to find it there. The last paragraph is the runner's summary, added up. Exits with
 * 1 where anything failed.
 */
import { readdirSync } from "node:fs";

/** A limit that no test comes near but one that hangs: a machine may be ten times slower than ours, and runs three lanes at once. */
const OPTIONS = ["--timeout=180000"];
export const OPT_IN = ["clients", "platforms"];
const NO_TESTS = ["support"];
/**
 * The attacks that run with nothing beside them: they measure how long somebody waits, fill what the whole machine has, or need
 * chances that a busy machine does not give them.
 */
const ALONE = [
  ...["agent", "agent-queue", "calls", "collision", "exhaustion", "floods", "flush", "identity"],
  ...["open-before", "processes", "tracked", "watch"],
].map((name) => `${name}.test.ts`);

/** What the runner says at its end, of one run or several. */
export interface Summary {
  readonly pass: number;
  readonly fail: number;
  readonly skip: number;
  readonly todo: number;
  readonly tests: number;
  readonly files: number;
}

const KINDS = ["pass", "fail", "skip", "todo"] as const;
const COLOURS = new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, "g");

/** Reads the summary out of a run's output; null where the run did not come to its end. */
export function summaryOf(output: string): Summary | null {
  const lines = output.replaceAll(COLOURS, "").split("\n");
  const end = lines.findLastIndex((line) => /^Ran \d+ tests? across \d+ files?/.test(line));
  if (end === -1) return null;
  const [tests, files] = (lines[end]?.match(/\d+/g) ?? []).map(Number);
  const start = lines.lastIndexOf("", end);
  const count = (kind: string): number =>
    lines
      .slice(start + 1, end)
      .map((line) => new RegExp(`^ *(\\d+) ${kind}$`).exec(line)?.[1])
      .reduce((sum, found) => sum + Number(found ?? 0), 0);
  const [pass, fail, skip, todo] = KINDS.map(count);
  return {
    pass: pass ?? 0,
    fail: fail ?? 0,
    skip: skip ?? 0,
    todo: todo ?? 0,
    tests: tests ?? 0,
    files: files ?? 0,
  };
}

/** How much of one failure is printed once more, in lines: the end of what it printed, where the assertion's place stands. */
const FAILURE_LINES = 30;

/** What failed in a run's output: of each failed test the lines that it printed, shortened, and its name with "(fail)" as the last. */
export function failuresOf(output: string): string[] {
  const failures = new Map<string, string>();
  let printed: string[] = [];
  for (const line of output.replaceAll(COLOURS, "").split("\n")) {
    if (/^\((pass|skip|todo)\) /.test(line)) printed = [];
    else if (!line.startsWith("(fail) ")) printed.push(line);
    else {
      // At its end the runner lists the names again, without what they printed.
      if (!failures.has(line)) failures.set(line, [...printed.slice(-FAILURE_LINES), line].join("\n"));
      printed = [];
    }
  }
  return [...failures.values()];
}

/** The summaries of several runs as the runner would print them for one. */
export function summaryText(summaries: readonly Summary[], seconds: number): string {
  const sum = (key: keyof Summary) => summaries.reduce((total, one) => total + one[key], 0);
  const counts = KINDS.filter((kind) => kind === "pass" || kind === "fail" || sum(kind) > 0);
  return [
    "",
    ...counts.map((kind) => ` ${sum(kind)} ${kind}`),
    `Ran ${sum("tests")} tests across ${sum("files")} files. [${seconds.toFixed(2)}s]`,
    "",
  ].join("\n");
}

/**
 * The directories and files below `test` in the order in which they run: the steps one after the other, each step's at once.
 * @param entries what is in `test`. @param attacks what is in `test/attack`, of which what is no test is left out.
 */
export function lanes(
  entries: readonly string[],
  attacks: readonly string[],
): readonly (readonly (readonly string[])[])[] {
  const own = ["attack", "boot", "node"];
  const others = entries.filter((name) => ![...own, ...OPT_IN, ...NO_TESTS].includes(name));
  const tests = attacks.filter((name) => name.endsWith(".test.ts")).map((name) => `attack/${name}`);
  const isAlone = (name: string) => ALONE.includes(name.slice("attack/".length));
  const paths = (names: readonly string[]) => names.map((name) => `./test/${name}`);
  const rest = [...others, ...tests.filter((name) => !isAlone(name))];
  return [[paths(rest), paths(["boot"]), paths(["node"])], [paths(tests.filter(isAlone))]];
}

/**
 * Writes to standard output and resolves when whoever reads there can have it: what is still to be written when the process
 * exits is lost, and where it is a pipe, that is whatever has no room in it.
 */
const show = (output: string | Uint8Array): Promise<void> =>
  new Promise((resolve) => process.stdout.write(output, () => resolve()));

/** How long the output of a run that has ended may be silent before it is taken for all: a process that it left may hold it open. */
const SILENT_MS = 3_000;

/** Runs `bun test`. @param isShown whether its output is shown as it comes, or as a whole at its end. */
async function runLane(
  paths: readonly string[],
  isShown: boolean,
): Promise<{ output: string; exitCode: number }> {
  const run = Bun.spawn([process.execPath, "test", ...OPTIONS, ...paths], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const parts: Buffer[] = [];
  const collect = async (stream: ReadableStream<Uint8Array>) => {
    const reader = stream.getReader();
    for (;;) {
      const silence = run.exited.then(() => Bun.sleep(SILENT_MS)).then(() => ({ value: undefined }));
      const { value } = await Promise.race([reader.read(), silence]);
      if (value === undefined) return;
      parts.push(Buffer.from(value));
      if (isShown) await show(value);
    }
  };
  await Promise.all([collect(run.stdout), collect(run.stderr)]);
  const exitCode = await run.exited;
  const output = Buffer.concat(parts).toString();
  if (!isShown) await show(output);
  return { output, exitCode };
}

async function main(paths: readonly string[]): Promise<number> {
  const startedMs = performance.now();
  const steps =
    paths.length > 0 ? [[paths]] : lanes(readdirSync("test").sort(), readdirSync("test/attack").sort());
  const summaries: Summary[] = [];
  const failures: string[] = [];
  let isRight = true;
  for (const step of steps) {
    const ran = await Promise.all(step.map((lane, index) => runLane(lane, index === 0)));
    for (const { output, exitCode } of ran) {
      const summary = summaryOf(output);
      isRight &&= exitCode === 0 && summary !== null;
      failures.push(...failuresOf(output));
      if (summary !== null) summaries.push(summary);
      else await show("a run of tests did not come to its end\n");
    }
  }
  // One run has printed its own.
  if (steps.flat().length > 1) {
    if (failures.length > 0) await show(`\n${["What failed:", ...failures].join("\n")}\n`);
    await show(`${summaryText(summaries, (performance.now() - startedMs) / 1_000)}\n`);
  }
  return isRight ? 0 : 1;
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)));
