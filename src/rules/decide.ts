import type { Config, Match, Rule } from "../config/schema.ts";
import type { Identity } from "../identity/types.ts";
import type { SessionRequest } from "../sessions/types.ts";
import { compileGlob } from "./glob.ts";
import { mentions, renderName, renderTag, type TemplateValues } from "./template.ts";

/** What the rules say for one identity, with the reason, so that whoami, explain and the audit line tell the same story. */
export type Decision =
  | {
      readonly kind: "role";
      readonly roleArn: string;
      /** The rule that matched, or null for the default role. */
      readonly rule: string | null;
      readonly reason: string;
      /** The request for the caller's session. */
      readonly request: SessionRequest;
    }
  | { readonly kind: "refuse"; readonly rule: string | null; readonly reason: string };

/** What of an identity and of the node the rules look at: what none needs is not asked for. */
export interface Needs {
  readonly groups: boolean;
  /** The cgroup, and with it the Slurm job. */
  readonly cgroup: boolean;
  readonly instanceId: boolean;
}

/** The rules, compiled once. */
export interface Rules {
  readonly needs: Needs;
  /** @param instanceId the node's, or null where no template needs it. */
  decide(identity: Identity, instanceId: string | null): Decision;
}

type RulesConfig = Pick<Config, "role" | "rules" | "sessionName" | "durationSeconds">;

/** Compiles the configuration's rules. Pure: the same identity always gets the same decision. */
export function compileRules(config: RulesConfig): Rules {
  const compiled = config.rules.map((rule) => ({ rule, matches: compileMatch(rule.match) }));
  const templates = config.rules.flatMap((rule) => [
    rule.sessionName ?? config.sessionName,
    rule.sourceIdentity ?? "",
    ...Object.values(rule.tags),
  ]);
  if (config.role !== null) templates.push(config.sessionName);
  return {
    needs: {
      groups: config.rules.some((rule) => rule.match.group !== undefined),
      cgroup:
        config.rules.some((rule) => rule.match.cgroup !== undefined || rule.match.slurmJob !== undefined) ||
        templates.some((template) => mentions(template, "slurmJobId")),
      instanceId: templates.some((template) => mentions(template, "instanceId")),
    },
    decide(identity, instanceId) {
      for (const { rule, matches } of compiled) {
        const verdict = matches(identity);
        if (verdict === "unknown") {
          // Passing it over would give the caller what the rules below have for others.
          const reason = `rule ${JSON.stringify(rule.name)} asks for the cgroup, which is not known`;
          return { kind: "refuse", rule: rule.name, reason };
        }
        if (!verdict) continue;
        if (rule.role === "none") {
          return {
            kind: "refuse",
            rule: rule.name,
            reason: `rule ${JSON.stringify(rule.name)} gives no role`,
          };
        }
        return {
          kind: "role",
          roleArn: rule.role,
          rule: rule.name,
          reason: `rule ${JSON.stringify(rule.name)} matched`,
          request: sessionRequest(config, rule, rule.role, identity, instanceId),
        };
      }
      if (config.role === null) {
        return { kind: "refuse", rule: null, reason: "no rule matched, and there is no default role" };
      }
      return {
        kind: "role",
        roleArn: config.role,
        rule: null,
        reason: config.rules.length === 0 ? "the default role" : "no rule matched: the default role",
        request: sessionRequest(config, null, config.role, identity, instanceId),
      };
    },
  };
}

function sessionRequest(
  config: RulesConfig,
  rule: Rule | null,
  roleArn: string,
  identity: Identity,
  instanceId: string | null,
): SessionRequest {
  const values: TemplateValues = {
    user: identity.user,
    uid: identity.uid,
    container: identity.container,
    instanceId,
    slurmJobId: identity.slurmJobId,
  };
  const byKey = ([a]: readonly [string, string], [b]: readonly [string, string]) =>
    a < b ? -1 : a > b ? 1 : 0;
  return {
    roleArn,
    sessionName: renderName(rule?.sessionName ?? config.sessionName, values),
    durationSeconds: rule?.durationSeconds ?? config.durationSeconds,
    sourceIdentity: rule?.sourceIdentity == null ? null : renderName(rule.sourceIdentity, values),
    tags: Object.entries(rule?.tags ?? {})
      .map(([key, template]) => [key, renderTag(template, values)] as const)
      .sort(byKey),
    transitiveTagKeys: [...(rule?.transitiveTagKeys ?? [])].sort(),
    policyArns: rule?.policyArns ?? [],
    policy: rule?.policy ?? null,
    externalId: rule?.externalId ?? null,
  };
}

/** All parts that a match names must hold; of a list, any. "unknown" where what a part needs is not known. */
function compileMatch(match: Match): (identity: Identity) => boolean | "unknown" {
  const globs = match.cgroup?.map(compileGlob);
  return (identity) => {
    if (match.user !== undefined && (identity.user === null || !match.user.includes(identity.user)))
      return false;
    const { uid } = identity;
    if (
      match.uid !== undefined &&
      !match.uid.some(({ from, to }) => uid !== null && from <= uid && uid <= to)
    ) {
      return false;
    }
    if (match.group !== undefined && !match.group.some((group) => identity.groups.includes(group)))
      return false;
    if (globs === undefined && match.slurmJob === undefined) return true;
    const { cgroup } = identity;
    if (cgroup === null) return "unknown";
    if (globs !== undefined && !globs.some((glob) => glob(cgroup))) return false;
    return match.slurmJob === undefined || match.slurmJob === (identity.slurmJobId !== null);
  };
}
