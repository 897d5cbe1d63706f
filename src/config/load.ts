import { readFileSync } from "node:fs";
import { type Document, LineCounter, parseDocument } from "yaml";
import { ImdsProxyError } from "../errors.ts";
import { knownKeys } from "./known-keys.ts";
import { type ConfigOverrides, givenOverrides } from "./overrides.ts";
import { unreachableRules } from "./reachable.ts";
import { type Config, configSchema } from "./schema.ts";

/** Where the configuration is when no `--config` says otherwise. */
export const DEFAULT_CONFIG_PATH = "/etc/imdsproxy/config.yaml";

/**
 * Reads, checks and completes the configuration.
 *
 * @param options.path the file; without it, {@link DEFAULT_CONFIG_PATH} if that exists, else the defaults alone.
 * @param options.overrides flags that stand over the file's keys.
 * @throws ImdsProxyError `config`, naming every wrong key with its line, what was found and what would be right.
 */
export function loadConfig(options: { path?: string | undefined; overrides?: ConfigOverrides } = {}): Config {
  const path = options.path ?? DEFAULT_CONFIG_PATH;
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (options.path === undefined && code === "ENOENT")
      return parseConfig("", "the defaults", options.overrides);
    throw new ImdsProxyError(
      "config",
      `cannot read the configuration ${path}: ${code === "ENOENT" ? "no such file" : (code ?? "unreadable")}`,
      code === "EACCES"
        ? "run this as root, or as a user who may read the file"
        : "name an existing file with --config FILE",
    );
  }
  return parseConfig(text, path, options.overrides);
}

/**
 * Checks and completes the text of a configuration.
 *
 * @param source what to call the text in errors: its path.
 */
export function parseConfig(text: string, source: string, overrides: ConfigOverrides = {}): Config {
  const lines = new LineCounter();
  const document = parseDocument(text, {
    lineCounter: lines,
    merge: false,
    uniqueKeys: true,
    // The parser's warnings are off: our own checks report the same with a line number.
    logLevel: "error",
  });
  const syntax = document.errors[0];
  if (syntax !== undefined) {
    const { line, col } = lines.linePos(syntax.pos[0]);
    throw invalid([`${source}:${line}:${col}: ${syntax.message.split("\n")[0]?.replace(/ at line.*$/, "")}`]);
  }
  let raw: unknown;
  try {
    // The limit stops nested aliases that would expand exponentially.
    raw = document.toJS({ maxAliasCount: 100 }) ?? {};
  } catch (error) {
    const unset = /^Unresolved alias .*: (.*)$/.exec(error instanceof Error ? error.message : "");
    throw invalid([
      unset === null
        ? `${source}: has too many aliases`
        : `${source}: has the alias *${unset[1]} of an anchor that is not set above it`,
    ]);
  }
  const circle = circleIn(raw, []);
  if (circle !== null) {
    throw invalid([
      `${source}:${lineOf(document, lines, circle)}: ${keyText(circle)} contains itself by an alias`,
    ]);
  }
  if (typeof raw !== "object" || raw === null || Array.isArray(raw)) {
    throw invalid([`${source}:1: must be a mapping of keys to values, such as "role: arn:aws:iam::…"`]);
  }
  const flagOf = applyOverrides(raw as Record<string, unknown>, overrides);

  const where = (keys: readonly PropertyKey[]): string => {
    const flag = flagOf.get(keys.join("."));
    return flag ?? `${source}:${lineOf(document, lines, keys)}: ${keyText(keys)}`;
  };
  const checked = configSchema.safeParse(raw);
  if (!checked.success) {
    throw invalid(
      checked.error.issues
        .flatMap((issue) => problemsOf(issue, []))
        .map((problem) => {
          const found = problem.key === undefined ? foundText(raw, problem.path) : "";
          return `${where(problem.key === undefined ? problem.path : [...problem.path, problem.key])} ${problem.message}${found}`;
        }),
    );
  }
  const unreachable = unreachableRules(checked.data);
  if (unreachable.length > 0) {
    throw invalid(unreachable.map(({ index, why }) => `${where(["rules", index])} ${why}`));
  }
  return checked.data;
}

/** The path of a value that contains itself through an alias; null where there is none. */
function circleIn(
  value: unknown,
  path: readonly PropertyKey[],
  around: readonly unknown[] = [],
): PropertyKey[] | null {
  if (typeof value !== "object" || value === null) return null;
  if (around.includes(value)) return [...path];
  for (const [key, inner] of Object.entries(value)) {
    const found = circleIn(inner, [...path, Array.isArray(value) ? Number(key) : key], [...around, value]);
    if (found !== null) return found;
  }
  return null;
}

const invalid = (problems: readonly string[]) =>
  new ImdsProxyError(
    "config",
    problems.length === 1
      ? (problems[0] ?? "")
      : `the configuration has ${problems.length} problems:\n  ${problems.join("\n  ")}`,
    null,
  );

function applyOverrides(raw: Record<string, unknown>, overrides: ConfigOverrides): Map<string, string> {
  const flagOf = new Map<string, string>();
  for (const { path, flag, value } of givenOverrides(overrides)) {
    const [first = "", second] = path;
    if (second === undefined) raw[first] = value;
    else {
      const parent = raw[first];
      raw[first] = { ...(typeof parent === "object" && parent !== null ? parent : {}), [second]: value };
    }
    flagOf.set(path.join("."), `--${flag}`);
  }
  return flagOf;
}

interface Problem {
  readonly path: readonly PropertyKey[];
  /** A key that is unknown at `path`. */
  readonly key?: string;
  readonly message: string;
}

type Issue = NonNullable<ReturnType<typeof configSchema.safeParse>["error"]>["issues"][number];

/** Flattens zod's issues: one for each unknown key, and for a union the branch that came furthest. */
function problemsOf(issue: Issue, prefix: readonly PropertyKey[]): Problem[] {
  const path = [...prefix, ...issue.path];
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => ({ path, key, message: `is not a known key${suggestion(path, key)}` }));
  }
  if (issue.code === "invalid_union") {
    const depth = (branch: readonly Issue[]) =>
      Math.max(...branch.map((i) => i.path.length + (i.code === "invalid_type" ? 0 : 1)));
    const best = [...issue.errors].sort((a, b) => depth(b as Issue[]) - depth(a as Issue[]))[0] as
      | Issue[]
      | undefined;
    if (best !== undefined && best.length > 0) return best.flatMap((inner) => problemsOf(inner, path));
  }
  if (issue.code === "invalid_key") {
    return issue.issues.map(({ message }) => ({ path, message: `is a key that ${message}` }));
  }
  if (issue.code === "invalid_type") {
    return [{ path, message: `must be ${article(issue.expected)}` }];
  }
  return [{ path, message: issue.message }];
}

const article = (type: string): string =>
  ({
    string: "text",
    number: "a number",
    boolean: "true or false",
    array: "a list",
    object: "a mapping",
    record: "a mapping",
  })[type] ?? `of type ${type}`;

function suggestion(path: readonly PropertyKey[], key: string): string {
  const known = knownKeys(path);
  return known.length === 0 ? "" : ` (found ${JSON.stringify(key)}); known here: ${known.join(", ")}`;
}

const keyText = (keys: readonly PropertyKey[]): string =>
  keys.length === 0
    ? "the file"
    : keys.map((k, i) => (typeof k === "number" ? `[${k}]` : `${i === 0 ? "" : "."}${String(k)}`)).join("");

function lineOf(document: Document, lines: LineCounter, keys: readonly PropertyKey[]): number {
  for (let depth = keys.length; depth > 0; depth--) {
    const parent: unknown = depth === 1 ? document.contents : document.getIn(keys.slice(0, depth - 1), true);
    const last = keys[depth - 1];
    const items = (parent as { items?: readonly unknown[] } | null)?.items ?? [];
    for (const [index, item] of items.entries()) {
      const pair = item as {
        key?: { value?: unknown; range?: readonly number[] };
        range?: readonly number[];
      };
      const range =
        pair.key !== undefined
          ? String(pair.key.value) === String(last)
            ? pair.key.range
            : undefined
          : index === last
            ? pair.range
            : undefined;
      if (range?.[0] !== undefined) return lines.linePos(range[0]).line;
    }
  }
  return 1;
}

/** ` (found "x")`, cut short. Keys whose value could be a secret have none in this configuration; an external id is left out all the same. */
function foundText(raw: unknown, path: readonly PropertyKey[]): string {
  if (path.at(-1) === "externalId" || path.at(-1) === "policy") return "";
  let value = raw;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | null | undefined)?.[key];
  const text = value === undefined ? "nothing" : JSON.stringify(value);
  return ` (found ${text.length > 80 ? `${text.slice(0, 77)}…` : text})`;
}
