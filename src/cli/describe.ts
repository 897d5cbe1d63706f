import type { ArgsDef, CommandDef } from "citty";

/** The definitions of the commands as data, from which help, completions and man pages are made. */

type AnyCommand = CommandDef<ArgsDef>;

/** A flag or an argument. */
export interface ArgumentInfo {
  /** As it is typed: `--dry-run`, or `USER`. */
  readonly name: string;
  /** `flag`: without a value. */
  readonly kind: "flag" | "value" | "positional";
  readonly description: string;
  /** The value's placeholder, such as `FILE`; null where there is none. */
  readonly hint: string | null;
  readonly required: boolean;
}

/** A command, or a group of commands. */
export interface CommandInfo {
  /** `["iptables", "apply"]`; empty for the program itself. */
  readonly path: readonly string[];
  readonly description: string;
  readonly args: readonly ArgumentInfo[];
  /** Without the hidden ones. */
  readonly subCommands: readonly CommandInfo[];
}

/** Resolves a value of a definition, which citty allows to be a function or a promise. */
export const resolve = async <T>(value: T | (() => T | Promise<T>) | Promise<T>): Promise<T> =>
  typeof value === "function" ? (value as () => T | Promise<T>)() : value;

/** A flag as it is typed. */
export const kebab = (name: string) => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** The subcommands that are not hidden. */
export async function shownCommands(command: AnyCommand): Promise<Record<string, AnyCommand>> {
  const all = await resolve(command.subCommands ?? {});
  const shown: Record<string, AnyCommand> = {};
  for (const [name, lazy] of Object.entries(all)) {
    const sub = (await resolve(lazy as AnyCommand)) as AnyCommand;
    if ((await resolve(sub.meta ?? {})).hidden !== true) shown[name] = sub;
  }
  return shown;
}

/** The flags and arguments of a command, but for `--help`, which each has. */
function argumentsOf(args: ArgsDef): ArgumentInfo[] {
  return Object.entries(args).flatMap(([name, arg]): ArgumentInfo[] => {
    const description = arg.description ?? "";
    if (arg.type === "positional") {
      return [
        {
          name: name.toUpperCase(),
          kind: "positional",
          description,
          hint: name.toUpperCase(),
          required: arg.required !== false,
        },
      ];
    }
    const flag = kebab(name);
    const kind = arg.type === "boolean" ? "flag" : "value";
    const hint = kind === "value" ? (arg.valueHint ?? "VALUE") : null;
    const described =
      typeof arg.default === "string" && !description.includes("default")
        ? `${description} (default ${arg.default})`
        : description;
    const one: ArgumentInfo = { name: `--${flag}`, kind, description: described, hint, required: false };
    // citty also takes `--no-x` for a boolean that defaults to true.
    return arg.type === "boolean" && arg.default === true
      ? [one, { ...one, name: `--no-${flag}`, description: `Not: ${description}` }]
      : [one];
  });
}

/** Describes a command and all subcommands that are not hidden. */
export async function describeCommand(
  command: AnyCommand,
  path: readonly string[] = [],
): Promise<CommandInfo> {
  const subCommands: CommandInfo[] = [];
  for (const [name, sub] of Object.entries(await shownCommands(command))) {
    subCommands.push(await describeCommand(sub, [...path, name]));
  }
  return {
    path,
    description: (await resolve(command.meta ?? {})).description ?? "",
    args: argumentsOf((await resolve(command.args ?? {})) as ArgsDef),
    subCommands,
  };
}

/** A command and all below it, in the order of the help. */
export const everyCommand = (info: CommandInfo): readonly CommandInfo[] => [
  info,
  ...info.subCommands.flatMap(everyCommand),
];
