import type { ConfigOverrides } from "../config/load.ts";

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

/** The flags of `serve` that stand over keys of the configuration. */
export const overrideArgs = {
  listen: { type: "string", description: "Where to listen (key listen)", valueHint: "ADDRESS:PORT" },
  upstream: {
    type: "string",
    description: "The node's own metadata service, or auto (key upstream)",
    valueHint: "URL",
  },
  region: { type: "string", description: "The region of STS, or auto (key region)", valueHint: "REGION" },
  "role-arn": {
    type: "string",
    description: "The role of every caller whom no rule names (key role)",
    valueHint: "ARN",
  },
  "sts-endpoint": {
    type: "string",
    description: "STS instead of the region's own (key sts.endpoint)",
    valueHint: "URL",
  },
  "state-dir": {
    type: "string",
    description: "Where the token key is kept (key stateDirectory)",
    valueHint: "DIR",
  },
} as const;

/** The overrides among parsed flags. */
export function overridesOf(
  args: Partial<Record<keyof typeof overrideArgs, string | undefined>>,
): ConfigOverrides {
  return {
    listen: args.listen,
    upstream: args.upstream,
    region: args.region,
    role: args["role-arn"],
    stsEndpoint: args["sts-endpoint"],
    stateDirectory: args["state-dir"],
  };
}

/** A number with its noun: `1 rule`, `2 rules`. */
export const counted = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? "" : "s"}`;
