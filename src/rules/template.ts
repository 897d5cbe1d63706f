import { createHash } from "node:crypto";
import { ABSENT, PLACEHOLDERS, type PlaceholderName } from "./placeholders.ts";

/**
 * Templates of session names, source identities and tags: `{user}@{instanceId}`. AWS allows few characters in them. A text in
 * which characters had to be replaced ends in a hash of the original, so that two users never get the same name.
 */

/** The values of the placeholders. */
export interface TemplateValues {
  /** The account's name, or null for a uid without one. */
  readonly user: string | null;
  /** Null for a container. */
  readonly uid: number | null;
  /** The address of a bridged container, or null. */
  readonly container: string | null;
  /** The node's instance id, or null where the upstream has not told it. */
  readonly instanceId: string | null;
  readonly slurmJobId: string | null;
  /** The node's; default null. */
  readonly region?: string | null;
  /** The group by which the rule matched; default null. */
  readonly group?: string | null;
  /** The node's; default null. */
  readonly hostname?: string | null;
  /** The name of the cluster; default null. */
  readonly cluster?: string | null;
}

const KNOWN: readonly string[] = PLACEHOLDERS.map(({ name }) => name);

/** Why the text is no template, or null where it is one. */
export function templateProblem(text: string, allowed: readonly string[] = KNOWN): string | null {
  const unknown = [...text.matchAll(/\{([^{}]*)\}/g)]
    .map((found) => found[1] ?? "")
    .find((p) => !allowed.includes(p));
  if (unknown !== undefined) {
    return `has the unknown placeholder {${unknown}}: known are ${allowed.map((p) => `{${p}}`).join(", ")}`;
  }
  if (/[{}]/.test(text.replaceAll(/\{[^{}]*\}/g, "")))
    return "has a brace that opens or closes no placeholder";
  if (text === "") return "must not be empty";
  return null;
}

/** The text of a placeholder; null where there is no value. */
function valueFor(name: string, values: TemplateValues): string | null {
  switch (name) {
    case "user":
      if (values.user !== null) return userText(values.user);
      return values.uid === null ? `container=${values.container}` : `uid=${values.uid}`;
    case "uid":
      return values.uid === null ? null : String(values.uid);
    case "instanceId":
      return values.instanceId;
    case "region":
      return values.region ?? null;
    case "slurmUser":
      return values.slurmJobId === null ? null : jobUserText(valueFor("user", values));
    case "group":
      return values.group ?? null;
    case "hostname":
      return values.hostname ?? null;
    case "cluster":
      return values.cluster ?? null;
    default:
      return values.slurmJobId;
  }
}

/** The template with its values; `absent` where one has none. */
const render = (template: string, values: TemplateValues, absent: string): string =>
  template.replaceAll(/\{(\w+)\}/g, (_, name: string) => valueFor(name, values) ?? absent);

/**
 * The name, escaped where it looks like the text for a uid without a name or for a container: a directory can have an account
 * called `uid=5010`. Such a name, and one that already looks escaped, gets the prefix `user:`.
 */
const userText = (user: string): string =>
  /^(?:user:)*(?:uid|container)=/.test(user) ? `user:${user}` : user;

/** The same, escaped where it is what stands for no job: a directory can have an account called `none`. */
const jobUserText = (user: string | null): string | null =>
  user !== null && /^(?:user:)*none$/.test(user) ? `user:${user}` : user;

/** The digits of the hash in a text that was changed: 64 bits, so that nobody finds another name with the same hash. */
export const HASH_DIGITS = 16;

/** The end of a text that was changed. A text that ends so by itself gets a hash as well, so that the two cannot be confused. */
const HASH_END = /-[0-9a-f]{16}$/;

/** Cuts `text` to `limit` characters with a hash of the whole at the end, so that different texts stay different. */
function withHash(text: string, whole: string, limit: number): string {
  const hash = createHash("sha256").update(bytesOf(whole)).digest("hex").slice(0, HASH_DIGITS);
  const start = text.slice(0, limit - hash.length - 1);
  // The cut may have split a surrogate pair.
  return `${start.isWellFormed() ? start : start.slice(0, -1)}-${hash}`;
}

/**
 * Different bytes for different texts. A name that is no UTF-8 has lone surrogates (src/identity/name-text.ts), which all have
 * the same encoding in UTF-8. So such a text is encoded as UTF-16, after a byte that UTF-8 never has.
 */
const bytesOf = (text: string): Buffer =>
  text.isWellFormed()
    ? Buffer.from(text, "utf8")
    : Buffer.concat([Uint8Array.of(0xff), Buffer.from(text, "utf16le")]);

/**
 * A RoleSessionName or SourceIdentity: 2 to 64 characters of `[\w+=,.@-]` (STS API reference, AssumeRole).
 * Other characters become `_`; a name that was changed or cut ends in a hash of the original.
 */
export function renderName(template: string, values: TemplateValues): string {
  const whole = render(template, values, ABSENT);
  const safe = whole.replaceAll(/[^A-Za-z0-9_+=,.@-]/g, "_");
  const stands = safe === whole && safe.length >= 2 && safe.length <= 64 && !HASH_END.test(safe);
  return stands ? safe : withHash(safe, whole, 64);
}

/**
 * A session tag's value: up to 256 letters, digits, spaces and `_.:/=+-@` (STS API reference, Tag). Null where a placeholder has
 * no value: then the session has no such tag. An empty tag would satisfy a policy that asks whether the tag exists, and would
 * look like a job without an id.
 */
export function renderTag(template: string, values: TemplateValues): string | null {
  const named = [...template.matchAll(/\{(\w+)\}/g)].map(([, name = ""]) => name);
  if (named.some((name) => valueFor(name, values) === null)) return null;
  const whole = render(template, values, "");
  const safe = whole.replaceAll(/[^\p{L}\p{Z}\p{N}_.:/=+\-@]/gu, "_");
  const stands = safe === whole && safe.length <= 256 && !HASH_END.test(safe);
  return stands ? safe : withHash(safe, whole, 256);
}

/** Whether the template names the placeholder. */
export const mentions = (template: string, placeholder: PlaceholderName): boolean =>
  template.includes(`{${placeholder}}`);

/** Whether the template names what only a Slurm job has. */
export const mentionsJob = (template: string): boolean =>
  mentions(template, "slurmJobId") || mentions(template, "slurmUser");
