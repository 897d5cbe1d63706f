import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { failuresOf, lanes, summaryOf, summaryText } from "../../scripts/run-tests.ts";

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

test("every directory of tests is in one lane, but for those with targets of their own", () => {
  const entries = readdirSync("test").sort();
  const planned = lanes(entries).flat(2);
  expect(new Set(planned).size).toBe(planned.length);
  expect(planned.map((path) => path.slice("./test/".length)).sort()).toEqual(
    entries.filter((name) => !["clients", "platforms", "support"].includes(name)),
  );
});

test("a lane that fails, or that does not come to its end, fails the whole", async () => {
  const run = async (source: string) => {
    const path = `${process.env["TMPDIR"] ?? "/tmp"}/imdsproxy-lane-${process.pid}-${Math.random()}.test.ts`;
    await Bun.write(path, `import { expect, test } from "bun:test";\n${source}\n`);
    const child = Bun.spawn([process.execPath, "scripts/run-tests.ts", path], {
      stdout: "pipe",
      stderr: "ignore",
    });
    const output = await new Response(child.stdout).text();
    await Bun.file(path).delete();
    return { exitCode: await child.exited, summary: summaryOf(output) };
  };
  expect(await run(`test("a", () => {});`)).toMatchObject({ exitCode: 0, summary: { pass: 1, fail: 0 } });
  expect(await run(`test("a", () => expect(1).toBe(2));`)).toMatchObject({
    exitCode: 1,
    summary: { pass: 0, fail: 1 },
  });
  expect(await run("process.exit(0);")).toEqual({ exitCode: 1, summary: null });
});
