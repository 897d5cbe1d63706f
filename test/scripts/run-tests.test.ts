import { expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import {
  ALONE,
  CALM,
  failuresOf,
  LONG,
  plan,
  runStep,
  summaryOf,
  summaryText,
} from "../../scripts/run-tests.ts";

test("a summary is read as bun test prints it, with colours and without, and only its last", () => {
  const output =
    "(pass) counts 3 pass\n 9 pass\nRan 9 tests across 1 file.\n\n\u001b[32m 12 pass\u001b[0m\n 1 skip\n 2 fail\n 40 expect() calls\nRan 15 tests across 3 files. [1.2s]\n";
  expect(summaryOf(output)).toEqual({ pass: 12, fail: 2, skip: 1, todo: 0, tests: 15, files: 3 });
  expect(summaryOf("(pass) one\n")).toBeNull();
});

test("several are added up, and what was added up is read again", () => {
  const one = { pass: 2, fail: 1, skip: 0, todo: 0, tests: 3, files: 1 };
  const two = { pass: 5, fail: 0, skip: 1, todo: 0, tests: 6, files: 2 };
  const text = summaryText([one, two], 3);
  expect(text).toBe("\n 7 pass\n 1 fail\n 1 skip\nRan 9 tests across 3 files. [3.00s]\n");
  expect(summaryOf(text)).toEqual({ pass: 7, fail: 1, skip: 1, todo: 0, tests: 9, files: 3 });
});

test("what failed is found with what it printed, once, however early in the output it stands", () => {
  const long = Array.from({ length: 100 }, (_, index) => `line ${index}`);
  const output = [
    "test/a.test.ts:",
    "(pass) a > before [0.1ms]",
    "error: expect(received).toBe(expected)",
    "\u001b[31m(fail)\u001b[0m a > one [1.0ms]",
    "(pass) a > between [0.1ms]",
    ...long,
    "(fail) a > two [2.0ms]",
    "(pass) a > after [0.1ms]",
    "2 tests failed:",
    "(fail) a > one [1.0ms]",
    "(fail) a > two [2.0ms]",
    "",
    " 3 pass",
    " 2 fail",
    "Ran 5 tests across 1 file. [1.00s]",
  ].join("\n");
  expect(failuresOf(output)).toEqual([
    "error: expect(received).toBe(expected)\n(fail) a > one [1.0ms]",
    [...long.slice(-30), "(fail) a > two [2.0ms]"].join("\n"),
  ]);
  expect(failuresOf("(pass) a > before [0.1ms]\n\n 1 pass\nRan 1 test across 1 file.\n")).toEqual([]);
});

const filesOf = (folder: string) => readdirSync(`test/${folder}`).sort();
const steps = plan(readdirSync("test").sort(), filesOf);

test("every directory of tests is run once, but for those with targets of their own", () => {
  const planned = steps.flatMap(({ runs }) => runs.flat());
  expect(new Set(planned).size).toBe(planned.length);
  const byFile = ["attack", "boot", "node"];
  const apart = [...byFile, "clients", "platforms", "support"];
  expect(planned.toSorted()).toEqual(
    [
      ...readdirSync("test").filter((name) => !apart.includes(name)),
      ...byFile.flatMap((folder) =>
        filesOf(folder)
          .filter((name) => name.endsWith(".test.ts"))
          .map((name) => `${folder}/${name}`),
      ),
    ]
      .map((name) => `./test/${name}`)
      .sort(),
  );
});

test("what measures how long somebody waits runs when all else is over, and nothing beside it", () => {
  expect(steps.at(-1)).toEqual({ atOnce: 1, runs: ALONE.map((path) => [path]) });
  expect(ALONE).toContain("./test/attack/exhaustion.test.ts");
  for (const path of [...LONG, ...CALM, ...ALONE]) expect([path, existsSync(path)]).toEqual([path, true]);
});

test("a step runs as many at once as it says, and begins the next when one has ended", async () => {
  const begun: string[] = [];
  const ended: string[] = [];
  const ends = new Map<string, () => void>();
  const run = ([path = ""]: readonly string[]) => {
    begun.push(path);
    return new Promise<string>((resolve) => ends.set(path, () => resolve(path)));
  };
  const done = runStep({ atOnce: 2, runs: [["a"], ["b"], ["c"], ["d"]] }, run, (path) => ended.push(path));
  const end = async (path: string) => {
    ends.get(path)?.();
    await new Promise(setImmediate);
  };
  expect(begun).toEqual(["a", "b"]);
  await end("b");
  expect([begun, ended]).toEqual([["a", "b", "c"], ["b"]]);
  await end("c");
  await end("d");
  await end("a");
  await done;
  expect([begun, ended]).toEqual([
    ["a", "b", "c", "d"],
    ["b", "c", "d", "a"],
  ]);
});

/** Runs a file of tests by the script, as it is called with a path. */
async function runFile(source: string, command = ["sh", "-c", 'exec "$@"', "sh"]) {
  const path = `${process.env["TMPDIR"] ?? "/tmp"}/imdsproxy-lane-${process.pid}-${Math.random()}.test.ts`;
  await Bun.write(path, `import { expect, test } from "bun:test";\n${source}\n`);
  const child = Bun.spawn([...command, process.execPath, "scripts/run-tests.ts", path], {
    stdout: "pipe",
    stderr: "ignore",
  });
  const output = await new Response(child.stdout).text();
  await Bun.file(path).delete();
  return { exitCode: await child.exited, summary: summaryOf(output), output };
}

test("a run that fails, or that does not come to its end, fails the whole", async () => {
  expect(await runFile(`test("a", () => {});`)).toMatchObject({
    exitCode: 0,
    summary: { pass: 1, fail: 0 },
  });
  expect(await runFile(`test("a", () => expect(1).toBe(2));`)).toMatchObject({
    exitCode: 1,
    summary: { pass: 0, fail: 1 },
  });
  expect(await runFile("process.exit(0);")).toMatchObject({ exitCode: 1, summary: null });
});

test("whoever reads late reads all of it, the summary last", async () => {
  const lines = 20_000;
  const late = ["bash", "-c", 'set -o pipefail; "$@" | { sleep 1; cat; }', "bash"];
  const { exitCode, summary, output } = await runFile(
    `test("a", () => { for (let i = 0; i < ${lines}; i++) console.log("line", i, "x".repeat(100)); });`,
    late,
  );
  expect({ exitCode, pass: summary?.pass }).toEqual({ exitCode: 0, pass: 1 });
  expect(output.match(/^line /gm)).toHaveLength(lines);
});

test("a process that a test left behind, with its output, is not waited for", async () => {
  const { exitCode, output } = await runFile(
    `test("a", () => {
      const left = Bun.spawn(["sleep", "1000"], { detached: true, stdout: "inherit", stderr: "inherit" });
      left.unref();
      console.log(\`left \${left.pid} behind\`);
    });`,
  );
  const pid = Number(/^left (\d+) behind$/m.exec(output)?.[1]);
  // It is there still: a signal that reaches nobody would throw.
  process.kill(pid, "SIGKILL");
  expect(exitCode).toBe(0);
});
