import type { z } from "zod";
import type { KeyPath } from "./document.ts";
import { knownKeys } from "./known-keys.ts";

/** Turns what zod finds wrong into messages of a configuration: the key, what was found and what would be right. */

interface Problem {
  readonly path: readonly PropertyKey[];
  /** A key that is unknown at `path`. */
  readonly key?: string;
  readonly message: string;
}

type Issue = z.core.$ZodIssue;

/** Flattens zod's issues: one for each unknown key, and for a union those of the branch that matched deepest. */
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

/** Keys whose values are not shown: whoever knows an external id may assume the role, and a policy may quote one. */
const HIDDEN_KEYS: readonly PropertyKey[] = ["externalId", "policy"];

/** ` (found "x")`, cut short, without the values of {@link HIDDEN_KEYS}, also where they are somewhere inside of the value. */
function foundText(raw: unknown, path: readonly PropertyKey[]): string {
  if (path.some((key) => HIDDEN_KEYS.includes(key))) return "";
  let value = raw;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | null | undefined)?.[key];
  const text =
    value === undefined
      ? "nothing"
      : JSON.stringify(value, (key, inner: unknown) => (HIDDEN_KEYS.includes(key) ? "(not shown)" : inner));
  return ` (found ${text.length > 80 ? `${text.slice(0, 77)}…` : text})`;
}

/**
 * Each problem with its place.
 *
 * @param raw the file's values, with those of flags over them.
 * @param where names a key with its place in the file, or the flag that stands for it.
 */
export function problemsIn(
  issues: readonly Issue[],
  raw: unknown,
  where: (keys: KeyPath) => string,
): readonly string[] {
  return issues
    .flatMap((issue) => problemsOf(issue, []))
    .map(({ path, key, message }) =>
      key === undefined
        ? `${where(path)} ${message}${foundText(raw, path)}`
        : `${where([...path, key])} ${message}`,
    );
}
