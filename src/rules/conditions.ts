import { type Identity, UNKNOWN_IDENTITY } from "../identity/types.ts";
import type { SessionRequest } from "../sessions/types.ts";
import { compileRules } from "./decide.ts";
import { ABSENT, PLACEHOLDERS } from "./placeholders.ts";
import { HASH_DIGITS, renderName, renderTag, type TemplateValues } from "./template.ts";
import type { Rule, RulesConfig } from "./types.ts";

/**
 * The conditions that the trust policy of a role can put on the sessions of one rule: their names, source identities and tags.
 * Every session of a caller whom the rule can match satisfies them.
 *
 * Keys: IAM User Guide, "IAM and AWS STS condition context keys" (sts:RoleSessionName, sts:SourceIdentity, sts:TransitiveTagKeys,
 * sts:ExternalId) and "AWS global condition context keys" (aws:RequestTag/KEY, aws:TagKeys). sts:SourceIdentity is the requested
 * value. aws:SourceIdentity is that of the calling session, and a node's own session has none.
 */

/** Operator, key, value or values, as IAM writes a condition. */
export type Conditions = Readonly<Record<string, Readonly<Record<string, string | readonly string[]>>>>;

const NOBODY: TemplateValues = { user: "", uid: 0, container: null, instanceId: null, slurmJobId: null };
/** The number of characters that stay of a text that is cut: a name's 64, less a hyphen and the hash. */
const STAYS = 64 - 1 - HASH_DIGITS;

/** The start of a text, without half of a surrogate pair at its end. */
function startOf(text: string): string {
  const start = text.slice(0, STAYS);
  return start.isWellFormed() ? start : start.slice(0, -1);
}

/** The constant start of a template; the whole template, where it has no placeholder. */
function constantPart(template: string): { readonly text: string; readonly isWhole: boolean } {
  const at = template.search(/\{\w+\}/);
  return at === -1 ? { text: template, isWhole: true } : { text: template.slice(0, at), isWhole: false };
}

/** A condition that each text of the template satisfies. */
function namePattern(template: string): {
  readonly operator: "StringEquals" | "StringLike";
  readonly value: string;
} {
  const { text, isWhole } = constantPart(template);
  if (isWhole) return { operator: "StringEquals", value: renderName(template, NOBODY) };
  return { operator: "StringLike", value: `${startOf(text.replaceAll(/[^A-Za-z0-9_+=,.@-]/g, "_"))}*` };
}

/** Whether a tag's text can be absent: a placeholder without a value leaves the tag out. */
const canBeAbsent = (template: string): boolean =>
  PLACEHOLDERS.some(({ name, absent }) => absent.includes(`\`${ABSENT}\``) && template.includes(`{${name}}`));

function tagPattern(template: string): { readonly operator: string; readonly value: string } {
  const { text, isWhole } = constantPart(template);
  if (isWhole) return { operator: "StringEquals", value: renderTag(template, NOBODY) ?? "" };
  const value = `${startOf(text.replaceAll(/[^\p{L}\p{Z}\p{N}_.:/=+\-@]/gu, "_"))}*`;
  return { operator: canBeAbsent(template) ? "StringLikeIfExists" : "StringLike", value };
}

/** An identity of which everything is known, so that every placeholder has a value. */
const SOMEBODY: Identity = { ...UNKNOWN_IDENTITY, uid: 1_000, user: "user", cgroup: "/", slurmJobId: "1" };

/** The grants are left out, because session policies need no permission of IAM. */
const WITHOUT_GRANTS = { grant: undefined, grants: undefined };

/** What one rule with a role, or the default role, needs of IAM. */
export interface Asked {
  /** A request with every field that the rule's requests can have: they decide which actions IAM must allow. */
  readonly request: SessionRequest;
  readonly conditions: Conditions;
}

/** What the configuration needs of IAM: one entry for the default role and one for each rule with a role, in this order. */
export function askedOfIam(config: RulesConfig): Asked[] {
  return [null, ...config.rules].flatMap((rule) => {
    // For any caller: of the match, only the groups stay, which give {group} its value.
    const group = rule?.match.group;
    const alone =
      rule === null
        ? { ...config, rules: [] }
        : { ...config, role: null, rules: [{ ...rule, match: { group }, ...WITHOUT_GRANTS }] };
    const somebody = { ...SOMEBODY, groups: group ?? [] };
    const decision = compileRules(alone, { hostname: "HOSTNAME" }).decide(somebody, "i-INSTANCE", "REGION");
    if (decision.kind !== "role") return [];
    return [{ request: decision.request, conditions: sessionConditions(config, rule) }];
  });
}

/**
 * The conditions for the sessions of a rule.
 *
 * @param rule null for the default role.
 */
function sessionConditions(config: Pick<RulesConfig, "sessionName">, rule: Rule | null): Conditions {
  const found: Record<string, Record<string, string | readonly string[]>> = {};
  const add = (operator: string, key: string, value: string | readonly string[]) => {
    found[operator] = { ...found[operator], [key]: value };
  };
  const name = namePattern(rule?.sessionName ?? config.sessionName);
  // Every request has a name, so the pattern `*` says nothing.
  if (name.value !== "*") add(name.operator, "sts:RoleSessionName", name.value);
  if (rule?.sourceIdentity != null) {
    const source = namePattern(rule.sourceIdentity);
    add(source.operator, "sts:SourceIdentity", source.value);
  }
  const tags = Object.entries(rule?.tags ?? {});
  for (const [key, template] of tags) {
    const { operator, value } = tagPattern(template);
    add(operator, `aws:RequestTag/${key}`, value);
  }
  if (tags.length > 0) add("ForAllValues:StringEquals", "aws:TagKeys", tags.map(([key]) => key).sort());
  const transitive = rule?.transitiveTagKeys ?? [];
  if (transitive.length > 0)
    add("ForAllValues:StringEquals", "sts:TransitiveTagKeys", [...transitive].sort());
  if (rule?.externalId != null) add("StringEquals", "sts:ExternalId", rule.externalId);
  return found;
}
