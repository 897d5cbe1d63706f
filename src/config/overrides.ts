/** A flag of `serve`, `setup` and `service install` that overrides a key of the configuration. */
interface Override {
  /** Without its dashes. */
  readonly flag: string;
  /** The key, from the top of the file. */
  readonly path: readonly string[];
  readonly description: string;
  /** The value's placeholder in help texts. */
  readonly valueHint: string;
}

/** Every override. The flags of commands, the errors that name a flag, and what setup writes into the file are made from this. */
export const OVERRIDES = {
  listen: { flag: "listen", path: ["listen"], description: "Where to listen", valueHint: "ADDRESS:PORT" },
  upstream: {
    flag: "upstream",
    path: ["upstream"],
    description: "The node's own metadata service, or auto",
    valueHint: "URL",
  },
  region: {
    flag: "region",
    path: ["region"],
    description: "The region of STS, or auto",
    valueHint: "REGION",
  },
  role: {
    flag: "role-arn",
    path: ["role"],
    description: "The role of every caller whom no rule names",
    valueHint: "ARN",
  },
  stsEndpoint: {
    flag: "sts-endpoint",
    path: ["sts", "endpoint"],
    description: "Where STS answers, in place of the region's own endpoint",
    valueHint: "URL",
  },
  stateDirectory: {
    flag: "state-dir",
    path: ["stateDirectory"],
    description: "Where the token key is kept",
    valueHint: "DIR",
  },
  logLevel: {
    flag: "log-level",
    path: ["log", "level"],
    description: "The lowest level that is logged: debug, info, warn or error",
    valueHint: "LEVEL",
  },
} as const satisfies Record<string, Override>;

/** Values of flags that override keys of the file, as text, as the flag had them. */
export type ConfigOverrides = { readonly [Name in keyof typeof OVERRIDES]?: string | undefined };

/** The overrides that have a value. */
export const givenOverrides = (overrides: ConfigOverrides): (Override & { readonly value: string })[] =>
  Object.entries(OVERRIDES).flatMap(([name, override]) => {
    const value = overrides[name as keyof ConfigOverrides];
    return value === undefined ? [] : [{ ...override, value }];
  });
