import { PLACEHOLDERS_FOLLOW } from "../config/schema.ts";

/** The keys of the configuration as imdsproxy-config(5) lists them, made from the JSON Schema; pure. */

/** The parts of a JSON Schema that are read here. */
export interface Schema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
}

export interface KeyInfo {
  /** `rules[].match.user` */
  readonly path: string;
  readonly description: string;
  /** In words: `text, or a list of it`. */
  readonly type: string;
  /** The default as the file would have it, in one line; null where there is none, or where the keys inside have it. */
  readonly fallback: string | null;
  readonly required: boolean;
}

const alternativesOf = (schema: Schema): readonly Schema[] =>
  schema.anyOf === undefined ? [schema] : schema.anyOf.flatMap(alternativesOf);

const objectIn = (schema: Schema): Schema | undefined =>
  alternativesOf(schema).find(({ properties }) => properties !== undefined);
const listIn = (schema: Schema): Schema | undefined =>
  alternativesOf(schema).find(({ items }) => items !== undefined)?.items;

const joined = (words: readonly string[]): string =>
  words.length < 2 ? (words[0] ?? "") : `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`;

const NAMES: Readonly<Record<string, string>> = {
  string: "text",
  boolean: "true or false",
  object: "mapping",
  array: "list",
  null: "null",
};

function wordsOf(schema: Schema): string[] {
  if (schema.const !== undefined) return [String(schema.const)];
  if (schema.enum !== undefined) return schema.enum.map(String);
  if (schema.items !== undefined) return [`list of ${typeText(schema.items)}`];
  const types = typeof schema.type === "string" ? [schema.type] : (schema.type ?? ["anything"]);
  return types.map((type) => {
    if (type !== "integer" && type !== "number") return NAMES[type] ?? type;
    const { minimum, maximum = Number.MAX_SAFE_INTEGER } = schema;
    const range =
      maximum === Number.MAX_SAFE_INTEGER ? `of ${minimum} or more` : `from ${minimum} to ${maximum}`;
    return `${type === "integer" ? "whole number" : "number"}${minimum === undefined ? "" : ` ${range}`}`;
  });
}

function typeText(schema: Schema): string {
  const rank = (word: string) => ["list", "null"].findIndex((last) => word.startsWith(last));
  const words = new Set(alternativesOf(schema).flatMap(wordsOf));
  // Null and lists come last: "text, list of text or null".
  return joined([...words].sort((one, other) => rank(one) - rank(other)));
}

/** A value as the file would have it, in one line. */
function valueText(value: unknown): string {
  if (typeof value !== "string" || !/^[\w/][\w./:-]*$/.test(value)) return JSON.stringify(value);
  return value;
}

/**
 * Every key below a mapping, in the order of the schema.
 *
 * @param defaults what the mapping is where the file does not have it.
 */
export function keysOf(schema: Schema, above = "", defaults: unknown = {}): KeyInfo[] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, one]): KeyInfo[] => {
    const path = `${above}${name}`;
    const list = listIn(one);
    const mapping = objectIn(one);
    const inside = mapping ?? (list === undefined ? undefined : objectIn(list));
    const fallback =
      one.default === undefined
        ? (defaults as Readonly<Record<string, unknown>> | null)?.[name]
        : one.default;
    return [
      {
        path,
        description: (one.description ?? "").split(` ${PLACEHOLDERS_FOLLOW}`)[0] ?? "",
        type: typeText(one),
        fallback: fallback === undefined || mapping !== undefined ? null : valueText(fallback),
        required: fallback === undefined && schema.required?.includes(name) === true,
      },
      ...(inside === undefined
        ? []
        : keysOf(
            inside,
            mapping === undefined ? `${path}[].` : `${path}.`,
            mapping === undefined ? {} : fallback,
          )),
    ];
  });
}
