import type { Identity } from "../identity/types.ts";
import { compileMatch, type Unknown } from "./match.ts";
import type { Grant, Rule, RulesConfig } from "./types.ts";

/**
 * The session policies of a rule with `grant: union`: those of all its grants that match, together. The session may do what its
 * role and any of these policies allow (IAM User Guide, "Session policies"). A caller without a grant does not get the whole
 * role, but a session whose policy denies everything.
 */

/** Managed session policies of one session at most (STS API reference, AssumeRole: PolicyArns). */
export const MOST_POLICIES = 10;
/** Characters of all session policies of one session at most, an ARN as it is written (the same place). */
export const MOST_POLICY_CHARACTERS = 2_048;
/**
 * The session policy of a caller whom no grant matches. A policy without an Allow would have the same effect; the Deny shows that
 * this is intended.
 */
export const DENY_ALL =
  '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}';

/** What the grants of a rule say for one identity. */
export type Granted =
  | {
      readonly kind: "granted";
      /** The grants that match, in the order of the configuration; none for a caller to whom everything is denied. */
      readonly grants: readonly string[];
      /** Sorted, each once: the same set is always the same request. */
      readonly policyArns: readonly string[];
      /** Inline policy. */
      readonly policy: string | null;
      /** True where a grant that matches asks for a Slurm job. */
      readonly ofJob: boolean;
    }
  /**
   * The policies exceed the limits of STS. Then there is no session, because one with a part of the policies is not what the rule
   * gives.
   */
  | { readonly kind: "too-many"; readonly why: string }
  /**
   * It is not known whether the grant matches. A session without it is not what the rule gives, because its policies may deny
   * something.
   */
  | { readonly kind: "unknown"; readonly grant: string; readonly unknown: Unknown };

/** Compiles the grants of one rule. Pure. */
export function compileGrants(
  grants: readonly Grant[],
  nameless: RulesConfig["nameless"],
): (identity: Identity) => Granted {
  const compiled = grants.map((grant) => ({ grant, matches: compileMatch(grant.match, nameless) }));
  return (identity) => {
    const matched: Grant[] = [];
    for (const { grant, matches } of compiled) {
      const verdict = matches(identity);
      if (verdict === false) continue;
      if (verdict !== true) return { kind: "unknown", grant: grant.name, unknown: verdict };
      matched.push(grant);
    }
    const why = tooMany(matched);
    if (why !== null) return { kind: "too-many", why };
    return {
      kind: "granted",
      grants: matched.map(({ name }) => name),
      policyArns: policiesOf(matched),
      policy: matched.length === 0 ? DENY_ALL : null,
      ofJob: matched.some(({ match }) => match.slurmJob === true),
    };
  };
}

/** The policies of grants, each once and sorted by code units, so that their order depends on no locale. */
export const policiesOf = (grants: readonly Grant[]): readonly string[] =>
  [...new Set(grants.flatMap(({ policyArns }) => policyArns))].sort();

/** Names in quotes: `"a"`, or `"a" and "b"`, or `"a", "b" and "c"`. */
export function quotedNames(names: readonly string[]): string {
  const quoted = names.map((name) => JSON.stringify(name));
  return quoted.length < 2 ? quoted.join("") : `${quoted.slice(0, -1).join(", ")} and ${quoted.at(-1)}`;
}

/** Why STS would not take the policies of these grants together; null where it takes them. */
export function tooMany(grants: readonly Grant[]): string | null {
  const policies = policiesOf(grants);
  const characters = policies.join("").length;
  if (policies.length <= MOST_POLICIES && characters <= MOST_POLICY_CHARACTERS) return null;
  const names = quotedNames(grants.map(({ name }) => name));
  const together = `the grants ${names} have ${policies.length} policies${grants.length > 1 ? " together" : ""}`;
  if (policies.length <= MOST_POLICIES)
    return `${together}, whose ARNs have ${characters} characters, and STS takes ${MOST_POLICY_CHARACTERS}`;
  // In the order of the configuration, so that the message names the grant that adds the policy.
  const first = new Map<string, string>();
  for (const { name, policyArns } of grants)
    for (const arn of policyArns) if (!first.has(arn)) first.set(arn, name);
  const [arn, name] = [...first][MOST_POLICIES] ?? [];
  return `${together}, and STS takes ${MOST_POLICIES}: ${arn} of ${JSON.stringify(name)} is one too many`;
}

/** The grants of a rule with `grant: union`; null where the rule has none, and gives the whole role. */
export const grantsOf = (rule: Pick<Rule, "grant" | "grants"> | null): readonly Grant[] | null =>
  rule?.grant === "union" ? (rule.grants ?? []) : null;

/** All matches of a rule: its own, and those of its grants. */
export const matchesOf = (rule: Pick<Rule, "match" | "grant" | "grants">) => [
  rule.match,
  ...(grantsOf(rule) ?? []).map(({ match }) => match),
];
