import { createHash } from "node:crypto";

/**
 * Templates of session names, source identities and tags: `{user}@{instanceId}`. AWS allows few characters in them, and
 * two callers must never get the same name by way of a replacement, so whatever had to be changed carries a hash.
 */

/** What a template can name. */
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
}

const PLACEHOLDERS = ["user", "uid", "instanceId", "slurmJobId"] as const;
/** A source identity stays with the session through role chaining: it may name who, not where. */
export const sourceIdentityPlaceholders: readonly string[] = ["user", "uid"];

/** Why the text is no template, or null where it is one. */
export function templateProblem(text: string, allowed: readonly string[] = PLACEHOLDERS): string | null {
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

function render(template: string, values: TemplateValues, absent: string): string {
  return template.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    switch (name) {
      // `=` cannot be in an account's name, so no account can pass for a nameless uid, or for a container.
      case "user":
        return values.user ?? (values.uid === null ? `container=${values.container}` : `uid=${values.uid}`);
      case "uid":
        return values.uid === null ? absent : String(values.uid);
      case "instanceId":
        return values.instanceId ?? absent;
      default:
        return values.slurmJobId ?? absent;
    }
  });
}

/** How a text that was changed ends; one that has this end of itself is given another, so that it cannot be taken for one. */
const HASH_END = /-[0-9a-f]{10}$/;

/** Cuts `text` to `limit` characters with a hash of the whole at the end, so that different texts stay different. */
function withHash(text: string, whole: string, limit: number): string {
  const hash = createHash("sha256").update(whole).digest("hex").slice(0, 10);
  return `${text.slice(0, limit - hash.length - 1)}-${hash}`;
}

/**
 * A RoleSessionName or SourceIdentity: 2 to 64 characters of `[\w+=,.@-]` (STS API reference, AssumeRole).
 * Other characters become `_`; a name that was changed or cut ends in a hash of the original.
 */
export function renderName(template: string, values: TemplateValues): string {
  const whole = render(template, values, "none");
  const safe = whole.replaceAll(/[^A-Za-z0-9_+=,.@-]/g, "_");
  const stands = safe === whole && safe.length >= 2 && safe.length <= 64 && !HASH_END.test(safe);
  return stands ? safe : withHash(safe, whole, 64);
}

/** A session tag's value: up to 256 letters, digits, spaces and `_.:/=+-@` (STS API reference, Tag); absent is empty. */
export function renderTag(template: string, values: TemplateValues): string {
  const whole = render(template, values, "");
  const safe = whole.replaceAll(/[^\p{L}\p{Z}\p{N}_.:/=+\-@]/gu, "_");
  const stands = safe === whole && safe.length <= 256 && !HASH_END.test(safe);
  return stands ? safe : withHash(safe, whole, 256);
}

/** Whether the template names the placeholder. */
export const mentions = (template: string, placeholder: (typeof PLACEHOLDERS)[number]): boolean =>
  template.includes(`{${placeholder}}`);
