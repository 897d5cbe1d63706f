import type { Identity } from "../identity/types.ts";
import type { SessionRequest } from "../sessions/types.ts";
import { compileGrants, type Granted, grantsOf, matchesOf, quotedNames } from "./grants.ts";
import {
  CGROUP,
  compileMatch,
  type Unknown,
  unavailableGroups,
  unavailableUser,
  unknownJob,
} from "./match.ts";
import type { PlaceholderName } from "./placeholders.ts";
import { mentions, mentionsJob, renderName, renderTag, type TemplateValues } from "./template.ts";
import type { Rule, RulesConfig } from "./types.ts";

/** The decision for one identity, with its reason: whoami, explain and the audit log all show this one. */
export type Decision =
  | {
      readonly kind: "role";
      readonly roleArn: string;
      /** The rule that matched, or null for the default role. */
      readonly rule: string | null;
      readonly reason: string;
      /** The request for the caller's session. */
      readonly request: SessionRequest;
      /** True where the session is that of a Slurm job: the rule or one of its grants asks for a job, or a text names it. */
      readonly ofJob?: true;
      /** Of a rule with `grant: union`, the names of the grants that match; none where everything is denied. */
      readonly grants?: readonly string[];
    }
  | {
      readonly kind: "refuse";
      readonly rule: string | null;
      readonly reason: string;
      /** True where the refusal is temporary, because a part of the identity is unknown for now. */
      readonly passing?: true;
    };

/** Which parts of an identity and of the node the rules use. The others need not be looked up. */
export interface Needs {
  readonly groups: boolean;
  /** The cgroup, and with it the Slurm job. */
  readonly cgroup: boolean;
  readonly instanceId: boolean;
  readonly region: boolean;
}

/** The rules, compiled once. */
export interface Rules {
  readonly needs: Needs;
  /** The groups that any rule names. */
  readonly namedGroups: ReadonlySet<string>;
  /**
   * @param instanceId the node's, or null where no template needs it.
   * @param region the node's; null, the default, where it is not known: a rule whose template needs it then refuses.
   */
  decide(identity: Identity, instanceId: string | null, region?: string | null): Decision;
}

/** The names of the node that templates may use, beside its instance id. */
export interface NodeNames {
  /** Null where the node has none, or it does not matter. */
  readonly hostname: string | null;
}

/** Compiles the configuration's rules. Pure: the same identity always gets the same decision. */
export function compileRules(config: RulesConfig, node: NodeNames = { hostname: null }): Rules {
  const compiled = config.rules.map((rule) => {
    const grants = grantsOf(rule);
    const granted = grants === null ? null : compileGrants(grants, config.nameless);
    // Made once, because each identity's decision is kept.
    const reason = `rule ${JSON.stringify(rule.name)} matched`;
    return { rule, reason, matches: compileMatch(rule.match, config.nameless), granted };
  });
  const matches = config.rules.flatMap(matchesOf);
  const templates = config.rules.flatMap((rule) => [
    rule.sessionName ?? config.sessionName,
    rule.sourceIdentity ?? "",
    ...Object.values(rule.tags),
  ]);
  if (config.role !== null) templates.push(config.sessionName);
  return {
    needs: {
      groups: matches.some(({ group }) => group !== undefined),
      cgroup:
        matches.some(
          ({ cgroup, unit, slurmJob }) =>
            cgroup !== undefined || unit !== undefined || slurmJob !== undefined,
        ) || templates.some(mentionsJob),
      instanceId: templates.some((template) => mentions(template, "instanceId")),
      region: templates.some((template) => mentions(template, "region")),
    },
    namedGroups: new Set(matches.flatMap(({ group }) => group ?? [])),
    decide(identity, instanceId, region = null) {
      for (const { rule, reason, matches, granted } of compiled) {
        const verdict = matches(identity);
        if (verdict === false) continue;
        // Skipping the rule could give the caller a role that is meant for others.
        if (verdict !== true) return unknown(`rule ${JSON.stringify(rule.name)}`, rule.name, verdict);
        if (rule.role === "none") {
          return {
            kind: "refuse",
            rule: rule.name,
            reason: `rule ${JSON.stringify(rule.name)} gives no role`,
          };
        }
        const given = granted?.(identity) ?? null;
        return assume(config, rule, rule.role, reason, identity, { ...node, instanceId, region }, given);
      }
      if (config.role === null) {
        return { kind: "refuse", rule: null, reason: "no rule matched, and there is no default role" };
      }
      const reason = config.rules.length === 0 ? "the default role" : "no rule matched: the default role";
      return assume(config, null, config.role, reason, identity, { ...node, instanceId, region }, null);
    },
  };
}

interface NamedNode extends NodeNames {
  readonly instanceId: string | null;
  readonly region: string | null;
}

const REGION: Unknown = {
  what: "the node's region, which its metadata service does not tell",
  passing: false,
};

const unknown = (asking: string, rule: string | null, { what, passing }: Unknown): Decision => ({
  kind: "refuse",
  rule,
  reason: `${asking} asks for ${what}`,
  ...(passing ? { passing } : {}),
});

/**
 * The role; a refusal where a template or a grant needs what is unknown, or where the grants are more than STS takes.
 *
 * @param granted null where the rule gives the whole role.
 */
function assume(
  config: RulesConfig,
  rule: Rule | null,
  roleArn: string,
  reason: string,
  identity: Identity,
  node: NamedNode,
  granted: Granted | null,
): Decision {
  const name = rule?.name ?? null;
  if (granted?.kind === "unknown")
    return unknown(
      `the grant ${JSON.stringify(granted.grant)} of rule ${JSON.stringify(name)}`,
      name,
      granted.unknown,
    );
  if (granted?.kind === "too-many")
    return { kind: "refuse", rule: name, reason: `rule ${JSON.stringify(name)} matched, but ${granted.why}` };
  const templates = [
    rule?.sessionName ?? config.sessionName,
    rule?.sourceIdentity ?? "",
    ...Object.values(rule?.tags ?? {}),
  ];
  const asking = (placeholder: string) =>
    `${rule === null ? "the default role" : `rule ${JSON.stringify(rule.name)}`} has a text with {${placeholder}}, which`;
  const asked = (...names: PlaceholderName[]) =>
    names.find((name) => templates.some((template) => mentions(template, name)));
  const ofJob = asked("slurmJobId", "slurmUser");
  if (identity.cgroup === null && ofJob !== undefined) return unknown(asking(ofJob), name, CGROUP);
  if (identity.jobUnknown !== undefined && ofJob !== undefined)
    return unknown(asking(ofJob), name, unknownJob(identity.jobUnknown));
  const ofUser = asked("user", "slurmUser");
  if (identity.userUnavailable !== undefined && ofUser !== undefined)
    return unknown(asking(ofUser), name, unavailableUser(identity.userUnavailable));
  const groups = rule?.match.group ?? [];
  const isFirst = groups[0] === undefined || identity.groups.includes(groups[0]);
  // The caller may be in one that comes before those which could be told, and the session would have another name for now.
  if (identity.groupsUnavailable !== undefined && !isFirst && asked("group") !== undefined)
    return unknown(asking("group"), name, unavailableGroups(identity.groupsUnavailable));
  const ofRegion = asked("region");
  if (node.region === null && ofRegion !== undefined) return unknown(asking(ofRegion), name, REGION);
  const isOfJob =
    identity.slurmJobId !== null &&
    (rule?.match.slurmJob === true || granted?.ofJob === true || templates.some(mentionsJob));
  return {
    kind: "role",
    roleArn,
    rule: name,
    reason: granted === null ? reason : `${reason}, ${grantedText(granted.grants)}`,
    request: sessionRequest(config, rule, roleArn, identity, node, granted),
    ...(isOfJob ? { ofJob: true } : {}),
    ...(granted === null ? {} : { grants: granted.grants }),
  };
}

const grantedText = (grants: readonly string[]): string =>
  grants.length === 0
    ? "and none of its grants: everything is denied"
    : `with ${grants.length === 1 ? "the grant" : "the grants"} ${quotedNames(grants)}`;

function sessionRequest(
  config: RulesConfig,
  rule: Rule | null,
  roleArn: string,
  identity: Identity,
  node: NamedNode,
  granted: Extract<Granted, { kind: "granted" }> | null,
): SessionRequest {
  const values: TemplateValues = {
    user: identity.user,
    uid: identity.uid,
    container: identity.container,
    instanceId: node.instanceId,
    slurmJobId: identity.slurmJobId,
    region: node.region,
    group: rule?.match.group?.find((group) => identity.groups.includes(group)) ?? null,
    hostname: node.hostname,
    cluster: config.cluster ?? null,
  };
  const byKey = ([a]: readonly [string, string], [b]: readonly [string, string]) =>
    a < b ? -1 : a > b ? 1 : 0;
  const tags = Object.entries(rule?.tags ?? {}).map(
    ([key, template]) => [key, renderTag(template, values)] as const,
  );
  // STS refuses a transitive key without a tag of that name.
  const without = new Set(tags.filter(([, value]) => value === null).map(([key]) => key));
  return {
    roleArn,
    sessionName: renderName(rule?.sessionName ?? config.sessionName, values),
    durationSeconds: rule?.durationSeconds ?? config.durationSeconds,
    sourceIdentity: rule?.sourceIdentity == null ? null : renderName(rule.sourceIdentity, values),
    tags: listOf(tags.filter((tag): tag is readonly [string, string] => tag[1] !== null).sort(byKey)),
    transitiveTagKeys: listOf((rule?.transitiveTagKeys ?? []).filter((key) => !without.has(key)).sort()),
    policyArns: listOf(granted?.policyArns ?? rule?.policyArns ?? NOTHING),
    policy: granted === null ? (rule?.policy ?? null) : granted.policy,
    externalId: rule?.externalId ?? null,
  };
}

/** One shared empty list: most requests have three, and a request is kept as long as its session. */
const NOTHING: readonly never[] = [];
const listOf = <T>(list: readonly T[]): readonly T[] => (list.length === 0 ? NOTHING : list);
