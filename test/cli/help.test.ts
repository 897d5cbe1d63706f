import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import { completionScript, SHELLS } from "../../src/cli/completion-scripts.ts";
import { type CommandInfo, describeCommand, everyCommand } from "../../src/cli/describe.ts";
import { argumentText, EXAMPLES, TOPICS, topicText, usageText } from "../../src/cli/help.ts";
import { root } from "../../src/cli/root.ts";
import { run } from "../../src/cli/run.ts";
import { painter } from "../../src/cli/terminal.ts";

/** Help, examples and completions, against the definitions that they are made of. */

const program = await describeCommand(root);
const commands = everyCommand(program);
const named = (info: CommandInfo) => info.path.join(" ") || "imdsproxy";
const plainHelp = (info: CommandInfo) => usageText(info, { width: 80, paint: painter(false) });

test("there are dozens of commands, and none that is hidden", () => {
  expect(commands.length).toBeGreaterThan(25);
  expect(commands.map(named)).toContain("iptables apply");
  for (const hidden of ["demo-part", "resolve-names", "service probe"]) {
    expect(commands.map(named)).not.toContain(hidden);
  }
});

describe("help", () => {
  for (const info of commands) {
    test(`of ${named(info)} names every flag, argument and subcommand, and fits 80 columns`, () => {
      const text = plainHelp(info);
      const words = [
        ...info.args.map(argumentText),
        ...info.subCommands.map(({ path }) => path.at(-1) ?? ""),
      ];
      for (const word of words)
        expect(text).toMatch(new RegExp(`^ +${word.replaceAll(/[[\]|.…]/g, "\\$&")}(?: |$)`, "m"));
      // An example is a line to copy, and stays whole.
      for (const line of text.split("\n")) {
        if (!/^ {4}(?:sudo )?imdsproxy/.test(line)) expect(line.length).toBeLessThanOrEqual(80);
      }
    });
  }

  test("has every command described", () => {
    for (const { description, args } of commands) {
      expect(description).not.toBe("");
      for (const arg of args) expect(arg.description).not.toBe("");
    }
  });

  test("has colours where they are wanted, and else none", () => {
    expect(usageText(program, { width: 80, paint: painter(true) })).toContain("\u001b[1mUSAGE\u001b[0m");
    expect(plainHelp(program)).not.toContain("\u001b");
  });
});

describe("examples", () => {
  const byPath = new Map(commands.map((info) => [info.path.join(" "), info]));
  test("fit into a terminal of 80 columns", () => {
    const lines = Object.values(EXAMPLES).flatMap((all) => all.map(({ line }) => line));
    expect(lines.filter((line) => line.length > 76)).toEqual([]);
  });
  for (const [path, examples] of Object.entries(EXAMPLES)) {
    for (const { line } of examples) {
      test(`of ${path || "imdsproxy"}: ${line}`, () => {
        const [, ...words] = line.replace(/^sudo /, "").split(" ");
        expect(line).toMatch(/^(?:sudo )?imdsproxy /);
        let info = program;
        while (words[0] !== undefined) {
          const sub = byPath.get([...info.path, words[0]].join(" "));
          if (sub === undefined) break;
          info = sub;
          words.shift();
        }
        expect(info.subCommands).toEqual([]);
        // It is of the command, or of one below it.
        expect([path, info.path.join(" ").startsWith(path)]).toEqual([path, true]);
        let positionals = 0;
        for (let word = words.shift(); word !== undefined; word = words.shift()) {
          if (!word.startsWith("--")) {
            positionals++;
            continue;
          }
          const flag = info.args.find(({ name }) => name === word);
          expect([word, flag?.name]).toEqual([word, word]);
          if (flag?.kind === "value") expect(words.shift()).toBeString();
        }
        const taken = info.args.filter(({ kind }) => kind === "positional");
        expect(positionals).toBeLessThanOrEqual(taken.length);
        expect(positionals).toBeGreaterThanOrEqual(taken.filter(({ required }) => required).length);
      });
    }
  }
});

describe("topics", () => {
  const byPath = new Set(commands.map((info) => info.path.join(" ")));
  for (const { name, title, text } of TOPICS) {
    test(`${name} fits 80 columns, and the commands in it are there`, () => {
      expect(topicText(name)).toBe(`${title}\n\n${text}`);
      for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
      for (const [, first = "", second = ""] of text.matchAll(
        /(?<!systemctl \w+ )\bimdsproxy ([a-z]+)(?: ([a-z-]+))?/g,
      )) {
        if (first === "help") continue;
        expect([first, byPath.has(first) || byPath.has(`${first} ${second}`)]).toEqual([first, true]);
      }
    });
  }
  test("bears no command's name", () => {
    for (const { name } of TOPICS) expect(byPath.has(name)).toBe(false);
    expect(topicText("toString")).toBeNull();
  });
});

describe("completion", () => {
  for (const shell of SHELLS) {
    const script = completionScript(shell, program);
    test(`for ${shell} has every command and every flag`, () => {
      for (const { path, args } of commands.slice(1)) {
        expect(script).toContain(`'${path.join(" ")}'`);
        for (const { name, kind } of args) {
          if (kind === "positional") continue;
          const found = script.split("\n").some((line) => {
            const isOf =
              shell === "fish"
                ? line.includes(`'${path.join(" ")}'`.replaceAll("'", "\\'"))
                : line.includes(`'${path.join(" ")}')`);
            return isOf && line.includes(shell === "fish" ? ` -l ${name.slice(2)} ` : name);
          });
          expect([shell, ...path, name, found]).toEqual([shell, ...path, name, true]);
        }
      }
    });
  }
});

describe("the command line", () => {
  let shown: string[];
  let log: ReturnType<typeof spyOn<Console, "log">>;
  beforeEach(() => {
    shown = [];
    log = spyOn(console, "log").mockImplementation((text) => void shown.push(String(text)));
  });
  afterEach(() => log.mockRestore());

  test("help COMMAND is COMMAND --help", async () => {
    await run(["help", "iptables", "apply"]);
    await run(["iptables", "apply", "--help"]);
    expect(shown[0]).toContain("imdsproxy iptables apply [OPTIONS]");
    expect(shown[1]).toBe(shown[0] ?? "");
  });
  test("help TOPIC is the topic, and help alone lists the topics", async () => {
    await run(["help", "trouble"]);
    await run(["help"]);
    expect(shown[0]).toStartWith("When something does not work\n");
    expect(shown[1]).toContain("imdsproxy help TOPIC");
  });
  for (const words of [["nonsense"], ["demo-part"], ["constructor"], ["trouble", "start"]]) {
    test(`help ${words.join(" ")} says what there is`, () =>
      expect(run(["help", ...words])).rejects.toThrow(/no command or topic .*[\s\S]*exit-codes/));
  }
  test("completion refuses a shell that it does not know", () =>
    expect(run(["completion", "tcsh"])).rejects.toThrow("one of bash, zsh, fish"));
});
