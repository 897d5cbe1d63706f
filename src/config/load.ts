import { readFileSync } from "node:fs";
import { z } from "zod";
import { ImdsProxyError } from "../errors.ts";
import { type FailedTest, failedTests, type PolicyTest } from "../rules/policy-tests.ts";
import { ConfigDocument, type KeyPath } from "./document.ts";
import { type ConfigOverrides, givenOverrides } from "./overrides.ts";
import { policyTestsSchema } from "./policy-tests.ts";
import { problemsIn } from "./problems.ts";
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
  const text = textOf(path, "the configuration", "name an existing file with --config FILE");
  if (text !== null) return parseConfig(text, path, options.overrides);
  if (options.path === undefined) return parseConfig("", "the defaults", options.overrides);
  throw new ImdsProxyError(
    "config",
    `cannot read the configuration ${path}: no such file`,
    "name an existing file with --config FILE",
  );
}

/** The text of a file; null where there is none. @param remedy what to do where it is no file. */
function textOf(path: string, what: string, remedy: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT") return null;
    throw new ImdsProxyError(
      "config",
      `cannot read ${what} ${path}: ${code ?? "unreadable"}`,
      code === "EACCES" ? "run this as root, or as a user who may read the file" : remedy,
    );
  }
}

/**
 * Checks and completes the text of a configuration.
 *
 * @param source what to call the text in errors: its path.
 */
export function parseConfig(text: string, source: string, overrides: ConfigOverrides = {}): Config {
  const document = new ConfigDocument(text, source);
  const raw = valuesOf(document);
  const flagOf = applyOverrides(raw, overrides);

  const where = (keys: KeyPath): string => flagOf.get(keys.join(".")) ?? document.name(keys);
  const checked = configSchema.safeParse(raw);
  if (!checked.success) {
    throw invalid(problemsIn(checked.error.issues, raw, where));
  }
  const unreachable = unreachableRules(checked.data);
  if (unreachable.length > 0) throw invalidItems(document, "rules", unreachable);
  const failed = failedTests(checked.data, checked.data.tests ?? []);
  if (failed.length > 0) throw invalidItems(document, "tests", failed);
  return checked.data;
}

/** Tests of the rules that stand in a file of their own. */
export interface TestFile {
  readonly tests: readonly PolicyTest[];
  /** The error for those that failed, with their lines. */
  failure(failed: readonly FailedTest[]): ImdsProxyError;
}

/** Reads a file whose one key is `tests`, as the configuration has it. @throws ImdsProxyError `config`. */
export function loadTests(path: string): TestFile {
  const text = textOf(path, "the tests", "name an existing file with --tests FILE");
  if (text === null) {
    throw new ImdsProxyError(
      "config",
      `cannot read the tests ${path}: no such file`,
      "name an existing file with --tests FILE",
    );
  }
  const document = new ConfigDocument(text, path);
  const { tests, ...others } = valuesOf(document);
  const other = Object.keys(others)[0];
  if (other !== undefined || tests === undefined) {
    throw invalid([
      other === undefined
        ? `${path}:1: must have the key tests (found nothing)`
        : `${document.name([other])} is not a known key (found ${JSON.stringify(other)}); known here: tests`,
    ]);
  }
  const checked = z.strictObject({ tests: policyTestsSchema }).safeParse({ tests });
  if (!checked.success)
    throw invalid(problemsIn(checked.error.issues, { tests }, (keys) => document.name(keys)));
  return { tests: checked.data.tests, failure: (failed) => invalidItems(document, "tests", failed) };
}

/** The values of a file, which is a mapping. @throws ImdsProxyError `config`. */
function valuesOf(document: ConfigDocument): Record<string, unknown> {
  const syntax = document.yaml.errors[0];
  if (syntax !== undefined) {
    const { line, column } = document.placeAt(syntax.pos[0]);
    throw invalid([
      `${document.source}:${line}:${column}: ${syntax.message.split("\n")[0]?.replace(/ at line.*$/, "")}`,
    ]);
  }
  let raw: unknown;
  try {
    // The limit stops nested aliases that would expand exponentially.
    raw = document.yaml.toJS({ maxAliasCount: 100 }) ?? {};
  } catch (error) {
    const unset = /^Unresolved alias .*: (.*)$/.exec(error instanceof Error ? error.message : "");
    throw invalid([
      unset === null
        ? `${document.source}: has too many aliases`
        : `${document.source}: has the alias *${unset[1]} of an anchor that is not set above it`,
    ]);
  }
  const circle = circleIn(raw, []);
  if (circle !== null) {
    throw invalid([`${document.name(circle)} contains itself by an alias`]);
  }
  if (typeof raw !== "object" || raw === null || Array.isArray(raw)) {
    throw invalid([
      `${document.source}:1: must be a mapping of keys to values, such as "role: arn:aws:iam::…"`,
    ]);
  }
  return raw as Record<string, unknown>;
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

/** Items of one of the file's lists that are wrong, each with its line. */
const invalidItems = (
  document: ConfigDocument,
  list: "rules" | "tests",
  found: readonly { readonly index: number; readonly why: string }[],
) =>
  invalid(
    found.map(({ index, why }) => `${document.name([list, index])} ${why}`),
    [...new Set(found.map(({ index }) => document.excerpt([list, index])))].filter((one) => one !== null),
  );

/** @param excerpts lines of the file, for a terminal. */
const invalid = (problems: readonly string[], excerpts: readonly string[] = []) =>
  new ImdsProxyError(
    "config",
    problems.length === 1
      ? (problems[0] ?? "")
      : `the configuration has ${problems.length} problems:\n  ${problems.join("\n  ")}`,
    excerpts.length === 0 ? null : excerpts.join("\n"),
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
