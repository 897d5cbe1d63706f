import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { ArgsDef, CommandDef } from "citty";
import { root } from "../../src/cli/root.ts";
import { describeStep } from "../../src/service/execute.ts";

/** docs/first-hour.md, which `make transcript` records, is of today's program: its commands, and words that the program says there. */

const page = readFileSync("docs/first-hour.md", "utf8");
/** The commands that were typed: `# imdsproxy …` as root, `alice$ imdsproxy …`. */
const typed = [...page.matchAll(/^(?:#|alice\$) ((?:\.\/)?imdsproxy .*)$/gm)].map(
  ([, command = ""]) => command,
);

const loaded = async <T>(value: T | (() => T | Promise<T>) | Promise<T>): Promise<T> =>
  typeof value === "function" ? (value as () => T | Promise<T>)() : value;

test("each command that it shows exists, with its flags", async () => {
  expect(typed.length).toBeGreaterThan(7);
  for (const line of typed) {
    const [, ...words] = line.split(" ");
    let command: CommandDef<ArgsDef> = root;
    for (;;) {
      const below = (await loaded(command.subCommands)) as Record<string, () => Promise<CommandDef<ArgsDef>>>;
      const next = below?.[words[0] ?? ""];
      if (next === undefined) break;
      words.shift();
      command = await loaded(next);
    }
    if (command === root) {
      expect([line, words]).toEqual([line, ["--version"]]);
      continue;
    }
    const args = ((await loaded(command.args)) ?? {}) as ArgsDef;
    for (const word of words.filter((one) => one.startsWith("--")))
      expect([line, Object.keys(args)]).toEqual([line, expect.arrayContaining([word.slice(2)])]);
  }
});

test("in the order of the first hour: look, observe, set up, and look at what came of it", () => {
  const commands = typed.map((line) => line.split(" ")[1]);
  const wanted = ["--version", "observe", "config", "setup", "whoami", "status", "doctor", "explain"];
  expect(wanted.map((command) => commands.indexOf(command))).toEqual(
    [...wanted.map((command) => commands.indexOf(command))].sort((a, b) => a - b),
  );
  expect(wanted.filter((command) => !commands.includes(command))).toEqual([]);
});

test("setup's steps are called as setup calls them today", () => {
  // Without the time in front of each, which a line that is broken goes on behind.
  const words = page.replaceAll(/\n {9}(?=\S)/g, " ");
  for (const step of [
    describeStep({ kind: "create-account" }),
    describeStep({ kind: "end-handover" }),
    describeStep({ kind: "start-handover", unit: "", config: "", creates: [] }),
  ])
    expect(words).toMatch(new RegExp(`^ *[0-9.]+ s  ${step.replaceAll(/[.*+?()[\]{}]/g, "\\$&")}$`, "m"));
});

test("it names no credential", () => {
  expect(page.split("\n").length).toBeGreaterThan(100);
  expect(page).not.toMatch(/(?:ASIA|AKIA)[A-Z0-9]{16}|SecretAccessKey/);
});
