import { constants, statSync } from "node:fs";
import { z } from "zod";
import { beginningOfFile } from "../bounded-read.ts";
import { ImdsProxyError } from "../errors.ts";
import { type FailedTest, failedTests, type PolicyTest } from "../rules/policy-tests.ts";
import { ConfigDocument, type KeyPath } from "./document.ts";
import { MOST_OBJECT_BYTES, OBJECT_KEYS, verifyObject } from "./object.ts";
import { type ConfigOverrides, givenOverrides } from "./overrides.ts";
import { policyTestsSchema } from "./policy-tests.ts";
import { problemsIn } from "./problems.ts";
import { unreachableRules } from "./reachable.ts";
import { type Config, configSchema } from "./schema.ts";

/** Where the configuration is when no `--config` says otherwise. */
export const DEFAULT_CONFIG_PATH = "/etc/imdsproxy/config.yaml";

/** The object that gives role and rules, where the configuration has `config`: the copy of it that this node has. */
export type ObjectState =
  | { readonly kind: "good"; readonly path: string; readonly serial: number; readonly hash: string }
  /** None was ever taken: everybody is refused. */
  | { readonly kind: "missing"; readonly path: string }
  /** It is not as it should be: everybody is refused. */
  | {
      readonly kind: "unusable";
      readonly path: string;
      readonly problem: string;
      readonly remedy: string | null;
    };

/** A configuration, and the object that is part of it; null where the file has all of it. */
export interface LoadedConfig {
  readonly config: Config;
  readonly object: ObjectState | null;
  /** The file alone, with which another object can be taken. */
  readonly file: ConfigFile;
}

/**
 * Where a node keeps its copy of the fleet's object, and what is known of it. Root's own, beside the service's state directory and not
 * in it: root must not write where a less privileged account can place links.
 */
export const objectDirectory = ({ stateDirectory }: Pick<Config, "stateDirectory">): string =>
  `${stateDirectory.replace(/\/+$/, "")}-fleet`;

/** The copy. */
export const objectPath = (config: Pick<Config, "stateDirectory">): string =>
  `${objectDirectory(config)}/object.yaml`;

export interface LoadOptions {
  /** The file; default {@link DEFAULT_CONFIG_PATH} if that exists, else the defaults alone. */
  readonly path?: string | undefined;
  /** Flags that stand over the file's keys. */
  readonly overrides?: ConfigOverrides;
  /** The object's copy; default that of the node. */
  readonly objectPath?: string | undefined;
}

/**
 * Reads, checks and completes the configuration. Where its object is missing or unusable, it has neither role nor rules.
 *
 * @throws ImdsProxyError `config`, naming every wrong key with its line, what was found and what would be right.
 */
export const loadConfig = (options: LoadOptions = {}): Config => loadWithObject(options).config;

/** The same, with the state of the object. An unusable copy of it is not an error of the file. */
export function loadWithObject(options: LoadOptions = {}): LoadedConfig {
  const path = options.path ?? DEFAULT_CONFIG_PATH;
  const remedy = "name an existing file with --config FILE";
  const text =
    options.path === undefined
      ? textOf(path, "the configuration", remedy)
      : textOfFile(path, "the configuration", remedy);
  // A program that has truncated the file and not written it yet, or could not, leaves it empty. A file of comments alone gives the defaults,
  // as /dev/null and a pipe do, and flags that name the role say what is wanted.
  if (text === "" && options.overrides?.role === undefined && isRegular(path))
    throw new ImdsProxyError(
      "config",
      `the configuration ${path} is empty`,
      "write it again, with room on the disk (df); for the defaults remove it",
    );
  const file = parseFile(text ?? "", text === null ? "the defaults" : path, options.overrides);
  return withCopy(file, options.objectPath);
}

/** Merges a file that was read before with the copy of the object that is on the disk now. */
export function withCopy(file: ConfigFile, path: string = objectPath(file.config)): LoadedConfig {
  const { config } = file;
  if (config.config == null) return { config, object: null, file };
  let bytes: Uint8Array | null;
  try {
    bytes = readObject(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unreadable";
    const problem = `cannot read the copy of the object ${path}: ${code}`;
    const remedy = code === "EACCES" ? "run this as root" : `see what it is: ls -l ${path}`;
    return { config, object: { kind: "unusable", path, problem, remedy }, file };
  }
  if (bytes === null) return { config, object: { kind: "missing", path }, file };
  try {
    const { config: merged, serial, hash } = withObject(file, bytes, path);
    return { config: merged, object: { kind: "good", path, serial, hash }, file };
  } catch (error) {
    if (!(error instanceof ImdsProxyError)) throw error;
    const { problem, remedy } = error;
    return { config, object: { kind: "unusable", path, problem, remedy }, file };
  }
}

/** The text of a file that must be there. @param remedy what to do where there is none. @throws ImdsProxyError `config`. */
export function textOfFile(path: string, what: string, remedy: string): string {
  const text = textOf(path, what, remedy);
  if (text !== null) return text;
  throw new ImdsProxyError("config", `cannot read ${what} ${path}: no such file`, remedy);
}

/**
 * The bytes of an object's file, no more than one above the longest object's; null where there is none.
 *
 * @throws what the file system says.
 */
export function readObject(path: string): Uint8Array | null {
  try {
    // O_NONBLOCK: where it is a FIFO, open(2) must not wait for a writer.
    return beginningOfFile(path, MOST_OBJECT_BYTES + 1, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

function isRegular(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** The longest configuration, in bytes: some hundred thousand rules. A larger file that was named by mistake is not read into memory. */
const MOST_CONFIG_BYTES = 16 * 1024 * 1024;

/** Error codes of file systems, in words. */
const FILE_ERRORS: Readonly<Record<string, string>> = {
  EISDIR: "it is a directory",
  ELOOP: "its symbolic links lead to each other",
  ENOTDIR: "a part of its path is no directory",
};

/** The text of a file; null where there is none. @param remedy what to do where it is not a file, or too long. */
function textOf(path: string, what: string, remedy: string): string | null {
  let bytes: Uint8Array;
  try {
    bytes = beginningOfFile(path, MOST_CONFIG_BYTES + 1);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unreadable";
    if (code === "ENOENT") return null;
    throw new ImdsProxyError(
      "config",
      `cannot read ${what} ${path}: ${FILE_ERRORS[code] ?? code}`,
      code === "EACCES" ? "run this as root, or as a user who may read the file" : remedy,
      { cause: error },
    );
  }
  if (bytes.length > MOST_CONFIG_BYTES) {
    throw new ImdsProxyError("config", `cannot read ${what} ${path}: it has more than 16 MiB`, remedy);
  }
  return new TextDecoder().decode(bytes);
}

/** A configuration's file: its values, and where each stands. */
export interface ConfigFile {
  /** Complete. Without role and rules where they come from the object. */
  readonly config: Config;
  readonly raw: Readonly<Record<string, unknown>>;
  /** Names a key with its line, or the flag that stands for it. */
  readonly places: Places;
}

/** Where keys stand. */
type Places = Pick<ConfigDocument, "name" | "excerpt">;

/**
 * Checks and completes the text of a configuration. Where it has `config`, its role and rules are in the object.
 *
 * @param source what to call the text in errors: its path.
 */
export const parseConfig = (text: string, source: string, overrides: ConfigOverrides = {}): Config =>
  parseFile(text, source, overrides).config;

export function parseFile(text: string, source: string, overrides: ConfigOverrides = {}): ConfigFile {
  const document = new ConfigDocument(text, source);
  const raw = valuesOf(document);
  const flagOf = applyOverrides(raw, overrides);
  const places: Places = {
    name: (keys) => flagOf.get(keys.join(".")) ?? document.name(keys),
    excerpt: (keys) => (flagOf.has(keys.join(".")) ? null : document.excerpt(keys)),
  };
  if (raw["config"] == null) return { config: checked(raw, places), raw, places };
  const misplaced = (["role", "rules"] as const).filter((key) => raw[key] != null);
  if (misplaced.length > 0) {
    throw invalid(
      misplaced.map(
        (key) =>
          `${places.name([key])} must stand in the object that config.source names, and not here as well`,
      ),
    );
  }
  return { config: shaped(raw, places), raw, places };
}

/**
 * The configuration of a node that takes role and rules from an object. The object's keys are those of {@link OBJECT_KEYS}, the
 * file's are the others, and both may have tests: so no key can have two values.
 *
 * @param name what to call the object in errors: its path, or its URL.
 * @throws ImdsProxyError `config` where the object may not be taken: its signature, its keys, its tests or the node's.
 */
export function withObject(
  file: ConfigFile,
  bytes: Uint8Array,
  name: string,
): { readonly config: Config; readonly serial: number; readonly hash: string } {
  const { config: remote } = file.config;
  if (remote == null) throw new Error("a configuration without `config` takes no object");
  const { publicKey: publicKeys, fleet } = remote;
  const { text, serial, hash } = verifyObject(bytes, { publicKeys, fleet }, name);
  return { config: merged(file, text, name), serial, hash };
}

/** The same of an object whose signature was verified, or of one that is to be signed. */
export function merged(file: ConfigFile, text: string, name: string): Config {
  const document = new ConfigDocument(text, name);
  const values = valuesOf(document);
  const foreign = Object.keys(values).filter((key) => !OBJECT_KEYS.some((known) => known === key));
  if (foreign.length > 0) {
    throw invalid(
      foreign.map(
        (key) =>
          `${document.name([key])} must not stand in an object: it is the node's own; an object has ${OBJECT_KEYS.join(", ")}`,
      ),
    );
  }
  const { tests, ...rest } = values;
  const own = (file.raw["tests"] ?? []) as readonly unknown[];
  const count = Array.isArray(tests) ? tests.length : 0;
  const all = tests == null || Array.isArray(tests) ? [...(tests ?? []), ...own] : tests;
  const raw = { ...file.raw, ...rest, ...(tests == null && own.length === 0 ? {} : { tests: all }) };
  const at = <Found>(keys: KeyPath, find: (places: Places, keys: KeyPath) => Found): Found => {
    const [key, index] = keys;
    if (key === "tests" && typeof index === "number" && index >= count)
      return find(file.places, ["tests", index - count, ...keys.slice(2)]);
    return find(OBJECT_KEYS.some((known) => known === key) ? document : file.places, keys);
  };
  const config = checked(raw, {
    name: (keys) => at(keys, (places, own) => places.name(own)),
    excerpt: (keys) => at(keys, (places, own) => places.excerpt(own)),
  });
  const isForNobody = config.role === null && config.rules.every(({ role }) => role === "none");
  if (isForNobody && !(config.tests ?? []).some(({ expect }) => expect.role === "none")) {
    throw invalid([
      `${name} gives a role to nobody: if that is intended, add a test that expects it, such as {given: {user: alice}, expect: {role: none}}`,
    ]);
  }
  return config;
}

/** Completes the values to a configuration. Does not compare the rules with each other, and runs no tests. */
function shaped(raw: Readonly<Record<string, unknown>>, places: Places): Config {
  const found = configSchema.safeParse(raw);
  if (found.success) return found.data;
  throw invalid(problemsIn(found.error.issues, raw, (keys) => places.name(keys)));
}

function checked(raw: Readonly<Record<string, unknown>>, places: Places): Config {
  const config = shaped(raw, places);
  const unreachable = unreachableRules(config);
  if (unreachable.length > 0) throw invalidItems(places, "rules", unreachable);
  const failed = failedTests(config, config.tests ?? []);
  if (failed.length > 0) throw invalidItems(places, "tests", failed);
  return config;
}

/** Tests of the rules that stand in a file of their own. */
export interface TestFile {
  readonly tests: readonly PolicyTest[];
  /** The error for those that failed, with their lines. */
  failure(failed: readonly FailedTest[]): ImdsProxyError;
}

/** Reads a file whose one key is `tests`, as the configuration has it. @throws ImdsProxyError `config`. */
export function loadTests(path: string): TestFile {
  const text = textOfFile(path, "the tests", "name an existing file with --tests FILE");
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
    const said = syntax.message.split("\n")[0]?.replace(/ at line.*$/, "");
    // The parser's own message names a function of its API.
    const what =
      syntax.code === "MULTIPLE_DOCS" ? "a second document begins here: the file must have one" : said;
    throw invalid([`${document.source}:${line}:${column}: ${what}`]);
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
  document: Places,
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
