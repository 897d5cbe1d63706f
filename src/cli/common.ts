import type { ObjectState } from "../config/load.ts";
import { type ConfigOverrides, OVERRIDES } from "../config/overrides.ts";

/** Flags that several commands share; citty reads them, run.ts refuses any other. */
export const configArg = {
  type: "string",
  description: "The configuration file (default /etc/imdsproxy/config.yaml, if it exists)",
  valueHint: "FILE",
} as const;

export const jsonArg = { type: "boolean", description: "Print JSON", default: false } as const;

export const dryRunArg = {
  type: "boolean",
  description: "Show what would be done, and change nothing",
  default: false,
} as const;

type OverrideFlag = (typeof OVERRIDES)[keyof typeof OVERRIDES]["flag"];

interface TextArg {
  readonly type: "string";
  readonly description: string;
  readonly valueHint: string;
}

/** The flags that override keys of the configuration. */
export const overrideArgs = Object.fromEntries(
  Object.values(OVERRIDES).map(({ flag, path, description, valueHint }) => [
    flag,
    { type: "string", description: `${description} (key ${path.join(".")})`, valueHint },
  ]),
) as Record<OverrideFlag, TextArg>;

/** The overrides among parsed flags. */
export const overridesOf = (args: Partial<Record<OverrideFlag, string | undefined>>): ConfigOverrides =>
  Object.fromEntries(Object.entries(OVERRIDES).map(([name, { flag }]) => [name, args[flag]]));

/** A number with its noun: `1 rule`, `2 rules`. */
export const counted = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Why there are no rules where they come from the fleet's object; null where they are there, or stand in the file. */
export function withoutRules(object: ObjectState | null): string | null {
  if (object === null || object.kind === "good") return null;
  return object.kind === "missing"
    ? `every user is refused until the fleet's object is in ${object.path}`
    : `every user is refused, because the fleet's object cannot be used: ${object.problem}`;
}

/** The matching grants of a rule with `grant: union`, as text. */
export const grantsText = (grants: readonly string[]): string =>
  grants.length === 0 ? "none: everything is denied" : grants.join(", ");
