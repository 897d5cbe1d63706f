/**
 * Runs the tests: `bun scripts/run-tests.ts [PATH…]`. With paths, those and nothing else, shown as they run. Without, all of them in
 * three steps. In each step several processes run at once, since most tests wait for other programs most of the time; whichever has
 * ended takes the next file that nobody has begun, so that none of them waits for a long one at the end.
 *
 * What failed is printed once more before the last paragraph, since it may have been printed long before, and whoever reads the end
 * of a long output has to find it there. The last paragraph is the runner's summary, added up. Exits with 1 where anything failed.
 */
import { readdirSync } from "node:fs";

/** A limit that no test comes near but one that hangs: a machine may be ten times slower than ours, and runs several at once. */
const OPTIONS = ["--timeout=180000"];
/** What needs a registry or hours; each has a target of its own. */
export const OPT_IN = ["clients", "platforms"];
const NO_TESTS = ["support"];
/** The folders whose files are run one by one, since each has a node of its own to wait for. The rest is one run. */
const BY_FILE = ["attack", "boot", "node"];
/** How many files are run at once in the first step: two for each of two processors, since a test waits for half of its time. */
const AT_ONCE = 4;
/** Begun first, the longest before the others: each takes more than half a minute where nothing runs beside it. */
export const LONG = [
  ...[
    "boot/closed",
    "boot/platform",
    "boot/scripts",
    "node/firewall-atomic",
    "node/firewall",
    "boot/late",
    "boot/interrupted",
  ],
  ...["boot/first-boot", "node/drills", "node/anew", "boot/repair", "attack/names", "boot/upgrade"],
  ...["attack/spelling", "node/main-job", "boot/restart", "boot/lifecycle", "node/limits"],
].map((name) => `./test/${name}.test.ts`);
/**
 * The attacks that need chances which a busy machine does not give them: two at a time, when the first step is over.
 */
export const CALM = [
  ...["identity", "tracked", "flush", "watch", "open-before", "collision", "agent", "agent-queue"],
  ...["calls", "processes"],
].map((name) => `./test/attack/${name}.test.ts`);
/** The attacks that measure how long somebody waits: nothing runs beside them. */
export const ALONE = ["exhaustion", "floods"].map((name) => `./test/attack/${name}.test.ts`);

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

/** Some runs of `bun test`, each with the paths that it is given, of which so many are under way at the same time. */
export interface Step {
  readonly atOnce: number;
  readonly runs: readonly (readonly string[])[];
}

/**
 * All tests, in the order in which they are begun.
 * @param entries what is in `test`. @param filesOf what is in a folder of it.
 */
export function plan(
  entries: readonly string[],
  filesOf: (folder: string) => readonly string[],
): readonly Step[] {
  const others = entries.filter((name) => ![...BY_FILE, ...OPT_IN, ...NO_TESTS].includes(name));
  const byFile = BY_FILE.flatMap((folder) =>
    filesOf(folder)
      .filter((name) => name.endsWith(".test.ts"))
      .map((name) => `./test/${folder}/${name}`),
  ).filter((path) => !CALM.includes(path) && !ALONE.includes(path));
  const [longest, ...long] = LONG;
  const short = byFile.filter((path) => !LONG.includes(path));
  const one = (path: string) => [path];
  return [
    {
      atOnce: AT_ONCE,
      runs: [
        ...(longest === undefined ? [] : [one(longest)]),
        others.map((name) => `./test/${name}`),
        ...[...long, ...short].map(one),
      ],
    },
    { atOnce: 2, runs: CALM.map(one) },
    { atOnce: 1, runs: ALONE.map(one) },
  ];
}

/**
 * Writes to standard output and resolves when whoever reads there can have it: what is still to be written when the process
 * exits is lost, and where it is a pipe, that is whatever has no room in it.
 */
const show = (output: string | Uint8Array): Promise<void> =>
  new Promise((resolve) => process.stdout.write(output, () => resolve()));

/**
 * How often, and each time for how many milliseconds, the output of a run that has ended is waited for before it is taken for all: a process
 * that it left may hold it open. Not one wait of three seconds: where this process had no processor for as long, that would be over
 * before what is in the pipe was read.
 */
const SILENT = { times: 30, ms: 100 };

/** What one run of `bun test` did. */
interface Ran {
  readonly paths: readonly string[];
  readonly output: string;
  readonly exitCode: number;
  readonly seconds: number;
}

/** Runs `bun test`. @param isShown whether its output is shown as it comes, or as a whole at its end. */
async function runTests(paths: readonly string[], isShown: boolean): Promise<Ran> {
  const startedMs = performance.now();
  const run = Bun.spawn([process.execPath, "test", ...OPTIONS, ...paths], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const parts: Buffer[] = [];
  const collect = async (stream: ReadableStream<Uint8Array>) => {
    const reader = stream.getReader();
    for (;;) {
      const silence = run.exited.then(async () => {
        for (let waited = 0; waited < SILENT.times; waited++) await Bun.sleep(SILENT.ms);
        return { value: undefined };
      });
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
  return { paths, output, exitCode, seconds: (performance.now() - startedMs) / 1_000 };
}

/** Runs a step. @param ended is called with what each run did, in the order in which they end. */
export async function runStep<Result>(
  { atOnce, runs }: Step,
  run: (paths: readonly string[]) => Promise<Result>,
  ended: (result: Result) => void,
): Promise<void> {
  const waiting = [...runs];
  const worker = async () => {
    for (let paths = waiting.shift(); paths !== undefined; paths = waiting.shift()) ended(await run(paths));
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

async function main(paths: readonly string[]): Promise<number> {
  const startedMs = performance.now();
  const isPart = paths.length > 0;
  const steps = isPart
    ? [{ atOnce: 1, runs: [paths] }]
    : plan(readdirSync("test").sort(), (folder) => readdirSync(`test/${folder}`).sort());
  const ran: Ran[] = [];
  for (const step of steps)
    await runStep(
      step,
      (these) => runTests(these, isPart),
      (one) => ran.push(one),
    );
  const summaries = ran.map(({ output }) => summaryOf(output));
  for (const [index, summary] of summaries.entries())
    if (summary === null)
      await show(`a run of tests did not come to its end: ${ran[index]?.paths.join(" ")}\n`);
  // One run has printed its own.
  if (!isPart) {
    const longest = ran.toSorted((one, other) => other.seconds - one.seconds).slice(0, 10);
    const times = longest.map(({ paths: [first, ...others], seconds }) => {
      const more = others.length === 0 ? "" : ` and ${others.length} more`;
      return `${seconds.toFixed(0).padStart(5)} s  ${first}${more}`;
    });
    await show(`\n${["What took longest:", ...times].join("\n")}\n`);
    const failures = ran.flatMap(({ output }) => failuresOf(output));
    if (failures.length > 0) await show(`\n${["What failed:", ...failures].join("\n")}\n`);
    const seconds = (performance.now() - startedMs) / 1_000;
    await show(
      `${summaryText(
        summaries.filter((summary) => summary !== null),
        seconds,
      )}\n`,
    );
  }
  return ran.every(({ exitCode }) => exitCode === 0) && !summaries.includes(null) ? 0 : 1;
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)));
