import { parseArgs, stripVTControlCharacters } from "node:util";
import { type ArgsDef, type CommandDef, renderUsage, runCommand } from "citty";
import { ImdsProxyError } from "../errors.ts";
import { versionText } from "../version.ts";
import { root } from "./root.ts";

/**
 * citty resolves and documents commands; what it lets pass is refused here, because a mistyped `--dryrun` that is
 * ignored changes a node: unknown flags, unknown commands, surplus arguments, a flag without its value.
 */

type AnyCommand = CommandDef<ArgsDef>;

const resolve = async <T>(value: T | (() => T | Promise<T>) | Promise<T>): Promise<T> =>
  typeof value === "function" ? (value as () => T | Promise<T>)() : value;

/** Runs one command line (without the program's name). Output goes to the terminal; errors are thrown. */
export async function run(argv: readonly string[]): Promise<void> {
  if (argv[0] === "--version" || argv[0] === "-V") {
    console.log(versionText());
    return;
  }
  let command: AnyCommand = root;
  let parent: AnyCommand | undefined;
  let rest = [...argv];
  // The command so far, without the program's name: main.ts begins every error with that.
  const path: string[] = [];
  const saidOf = (problem: string) => [...(path.length === 0 ? [] : [path.join(" ")]), problem].join(": ");
  for (;;) {
    const subCommands = command.subCommands === undefined ? undefined : await resolve(command.subCommands);
    if (subCommands === undefined) break;
    const name = rest[0];
    if (name === undefined || name === "--help" || name === "-h" || name === "help") {
      const shown = await usage(await visible(command), parent);
      if (name === undefined) throw new ImdsProxyError("usage", saidOf("which command?"), shown);
      console.log(shown);
      return;
    }
    const next = Object.hasOwn(subCommands, name) ? subCommands[name] : undefined;
    if (next === undefined) {
      const known = Object.keys(await namesOf(command)).join(", ");
      throw new ImdsProxyError("usage", saidOf(`no command ${JSON.stringify(name)}`), `commands: ${known}`);
    }
    parent = command;
    command = (await resolve(next as AnyCommand)) as AnyCommand;
    path.push(name);
    rest = rest.slice(1);
  }
  if (rest.includes("--help") || rest.includes("-h")) {
    console.log(await usage(command, parent));
    return;
  }
  refuseUnknown(path.join(" "), (await resolve(command.args ?? {})) as ArgsDef, rest);
  await runCommand(command, { rawArgs: rest });
}

/** The help text. citty writes colours even where the output is no terminal; they are removed there. */
async function usage(command: AnyCommand, parent: AnyCommand | undefined): Promise<string> {
  const text = await renderUsage(command, parent);
  return process.stdout.isTTY && process.stderr.isTTY ? text : stripVTControlCharacters(text);
}

/** The subcommands that are not hidden. */
async function namesOf(command: AnyCommand): Promise<Record<string, AnyCommand>> {
  const all = await resolve(command.subCommands ?? {});
  const shown: Record<string, AnyCommand> = {};
  for (const [name, lazy] of Object.entries(all)) {
    const sub = (await resolve(lazy as AnyCommand)) as AnyCommand;
    if ((await resolve(sub.meta ?? {})).hidden !== true) shown[name] = sub;
  }
  return shown;
}

const visible = async (command: AnyCommand): Promise<AnyCommand> => ({
  ...command,
  subCommands: await namesOf(command),
});

const kebab = (name: string) => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

function refuseUnknown(path: string, args: ArgsDef, rest: readonly string[]): void {
  const options: Record<string, { type: "string" | "boolean"; short?: string }> = {};
  let positionals = 0;
  for (const [name, arg] of Object.entries(args)) {
    if (arg.type === "positional") {
      positionals++;
      continue;
    }
    options[kebab(name)] = { type: arg.type === "boolean" ? "boolean" : "string" };
    // citty also takes `--no-x` for a boolean that defaults to true.
    if (arg.type === "boolean" && arg.default === true) options[`no-${kebab(name)}`] = { type: "boolean" };
  }
  let found: ReturnType<typeof parseArgs>;
  try {
    found = parseArgs({ args: [...rest], options, strict: true, allowPositionals: true });
  } catch (error) {
    const text = error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
    const flags = Object.keys(options).map((name) => `--${name}`);
    throw new ImdsProxyError(
      "usage",
      `${path}: ${text.replace(/\. To specify a positional.*$/, "")}`,
      flags.length === 0 ? "it takes no flags" : `flags: ${flags.join(" ")}`,
    );
  }
  const surplus = found.positionals[positionals];
  if (surplus !== undefined) {
    throw new ImdsProxyError(
      "usage",
      `${path}: does not take the argument ${JSON.stringify(surplus)}`,
      `see imdsproxy ${path} --help`,
    );
  }
  for (const [name, arg] of Object.entries(args)) {
    if (arg.type === "positional" && arg.required !== false && found.positionals.length < positionals) {
      throw new ImdsProxyError(
        "usage",
        `${path}: ${name.toUpperCase()} is missing`,
        `see imdsproxy ${path} --help`,
      );
    }
    const value = found.values[kebab(name)];
    if (arg.type === "string" && value === "") {
      throw new ImdsProxyError("usage", `${path}: --${kebab(name)} is empty`, `see imdsproxy ${path} --help`);
    }
  }
}
