import { parseArgs } from "node:util";
import { type ArgsDef, type CommandDef, runCommand } from "citty";
import { ImdsProxyError } from "../errors.ts";
import { versionText } from "../version.ts";
import { describeCommand, kebab, resolve, shownCommands } from "./describe.ts";
import { topicsText, topicText, usageText } from "./help.ts";
import { root } from "./root.ts";
import { painter, takesColours, widthOf } from "./terminal.ts";

/**
 * Runs command lines with citty, and refuses what citty ignores: unknown flags, unknown commands, surplus arguments, a flag
 * without its value. A mistyped `--dryrun` that is ignored would change the node.
 */

type AnyCommand = CommandDef<ArgsDef>;

/**
 * Runs one command line (without the program's name). Output goes to the terminal; errors are thrown.
 *
 * @returns `report` for a command that only prints, `change` for one that can change the node (it has --dry-run).
 */
export async function run(argv: readonly string[]): Promise<"report" | "change"> {
  if (argv[0] === "--version" || argv[0] === "-V") {
    console.log(versionText());
    return "report";
  }
  let command: AnyCommand = root;
  let rest = [...argv];
  // The command so far, without the program's name: main.ts begins every error with that.
  const path: string[] = [];
  const saidOf = (problem: string) => [...(path.length === 0 ? [] : [path.join(" ")]), problem].join(": ");
  for (;;) {
    const subCommands = command.subCommands === undefined ? undefined : await resolve(command.subCommands);
    if (subCommands === undefined) break;
    const name = rest[0];
    const topic = name === "help" && path.length === 0 ? rest[1] : undefined;
    if (topic !== undefined) {
      const text = topicText(topic);
      if (text !== null && rest.length === 2) {
        console.log(text);
        return "report";
      }
      // `imdsproxy help iptables apply` is `imdsproxy iptables apply --help`.
      if (!Object.hasOwn(await shownCommands(command), topic)) {
        throw new ImdsProxyError("usage", `help: no command or topic ${JSON.stringify(topic)}`, topicsText());
      }
      return run([...rest.slice(1), "--help"]);
    }
    if (name === undefined || name === "--help" || name === "-h" || name === "help") {
      if (name === undefined)
        throw new ImdsProxyError("usage", saidOf("which command?"), await usage(command, path, false));
      console.log(await usage(command, path));
      return "report";
    }
    const next = Object.hasOwn(subCommands, name) ? subCommands[name] : undefined;
    if (next === undefined) {
      const known = Object.keys(await shownCommands(command)).join(", ");
      throw new ImdsProxyError("usage", saidOf(`no command ${JSON.stringify(name)}`), `commands: ${known}`);
    }
    command = (await resolve(next as AnyCommand)) as AnyCommand;
    path.push(name);
    rest = rest.slice(1);
  }
  if (rest.includes("--help") || rest.includes("-h")) {
    console.log(await usage(command, path));
    return "report";
  }
  const args = (await resolve(command.args ?? {})) as ArgsDef;
  refuseUnknown(path.join(" "), args, rest);
  await runCommand(command, { rawArgs: rest });
  return Object.keys(args).some((name) => kebab(name) === "dry-run") ? "change" : "report";
}

/** The help of a command; by default with colours, where the terminal takes them. */
async function usage(
  command: AnyCommand,
  path: readonly string[],
  colours = takesColours(process.stdout),
): Promise<string> {
  const info = await describeCommand(command, path);
  return usageText(info, {
    width: widthOf(process.stdout) ?? 80,
    paint: painter(colours),
  });
}

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
  let place = 0;
  for (const [name, arg] of Object.entries(args)) {
    const isMissing = arg.type === "positional" && place++ >= found.positionals.length;
    if (isMissing && arg.required !== false) {
      throw new ImdsProxyError(
        "usage",
        `${path}: ${name.toUpperCase()} is missing`,
        `see imdsproxy ${path} --help`,
      );
    }
    const value = found.values[kebab(name)];
    if (arg.type === "string" && arg.required === true && value === undefined) {
      const hint = arg.valueHint ?? "VALUE";
      throw new ImdsProxyError(
        "usage",
        `${path}: --${kebab(name)} is missing`,
        `name it: --${kebab(name)} ${hint}; see imdsproxy ${path} --help`,
      );
    }
    if (arg.type === "string" && value === "") {
      throw new ImdsProxyError("usage", `${path}: --${kebab(name)} is empty`, `see imdsproxy ${path} --help`);
    }
  }
}
