import type { Identity } from "../identity/types.ts";
import { systemUnitOf } from "../identity/unit.ts";
import type { SessionRequest } from "../sessions/types.ts";
import { compileGlob } from "./glob.ts";
import type { PlaceholderName } from "./placeholders.ts";
import { mentions, mentionsJob, renderName, renderTag, type TemplateValues } from "./template.ts";
import type { Match, Rule, RulesConfig } from "./types.ts";

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
      /** True where the session is that of a Slurm job: the rule asks for a job, or a text names it. */
      readonly ofJob?: true;
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
}

/** The rules, compiled once. */
export interface Rules {
  readonly needs: Needs;
  /** The groups that any rule names. */
  readonly namedGroups: ReadonlySet<string>;
  /** @param instanceId the node's, or null where no template needs it. */
  decide(identity: Identity, instanceId: string | null): Decision;
}

/** What the texts of sessions may name of the node, beside its instance id. */
export interface NodeNames {
  /** Null where the node has none, or it does not matter. */
  readonly hostname: string | null;
}

/** Compiles the configuration's rules. Pure: the same identity always gets the same decision. */
export function compileRules(config: RulesConfig, node: NodeNames = { hostname: null }): Rules {
  const compiled = config.rules.map((rule) => ({ rule, matches: compileMatch(rule.match, config.nameless) }));
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
        config.rules.some(
          ({ match }) =>
            match.cgroup !== undefined || match.unit !== undefined || match.slurmJob !== undefined,
        ) || templates.some(mentionsJob),
      instanceId: templates.some((template) => mentions(template, "instanceId")),
    },
    namedGroups: new Set(config.rules.flatMap((rule) => rule.match.group ?? [])),
    decide(identity, instanceId) {
      for (const { rule, matches } of compiled) {
        const verdict = matches(identity);
        if (verdict === false) continue;
        // To skip the rule could give the caller a role that is meant for others.
        if (verdict !== true) return unknown(`rule ${JSON.stringify(rule.name)}`, rule.name, verdict);
        if (rule.role === "none") {
          return {
            kind: "refuse",
            rule: rule.name,
            reason: `rule ${JSON.stringify(rule.name)} gives no role`,
          };
        }
        const reason = `rule ${JSON.stringify(rule.name)} matched`;
        return assume(config, rule, rule.role, reason, identity, { ...node, instanceId });
      }
      if (config.role === null) {
        return { kind: "refuse", rule: null, reason: "no rule matched, and there is no default role" };
      }
      const reason = config.rules.length === 0 ? "the default role" : "no rule matched: the default role";
      return assume(config, null, config.role, reason, identity, { ...node, instanceId });
    },
  };
}

interface NamedNode extends NodeNames {
  readonly instanceId: string | null;
}

/** A part of an identity that is unknown, in words that complete "rule X asks for …". */
interface Unknown {
  readonly what: string;
  /** Whether it may become known later. */
  readonly passing: boolean;
}

const unknown = (asking: string, rule: string | null, { what, passing }: Unknown): Decision => ({
  kind: "refuse",
  rule,
  reason: `${asking} asks for ${what}`,
  ...(passing ? { passing } : {}),
});

/** The role; a refusal where a template of the session needs a part of the identity that is unknown. */
function assume(
  config: RulesConfig,
  rule: Rule | null,
  roleArn: string,
  reason: string,
  identity: Identity,
  node: NamedNode,
): Decision {
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
  if (identity.cgroup === null && ofJob !== undefined)
    return unknown(asking(ofJob), rule?.name ?? null, CGROUP);
  const ofUser = asked("user", "slurmUser");
  if (identity.userUnavailable !== undefined && ofUser !== undefined)
    return unknown(asking(ofUser), rule?.name ?? null, unavailableUser(identity.userUnavailable));
  const isOfJob =
    identity.slurmJobId !== null && (rule?.match.slurmJob === true || templates.some(mentionsJob));
  return {
    kind: "role",
    roleArn,
    rule: rule?.name ?? null,
    reason,
    request: sessionRequest(config, rule, roleArn, identity, node),
    ...(isOfJob ? { ofJob: true } : {}),
  };
}

function sessionRequest(
  config: RulesConfig,
  rule: Rule | null,
  roleArn: string,
  identity: Identity,
  node: NamedNode,
): SessionRequest {
  const values: TemplateValues = {
    user: identity.user,
    uid: identity.uid,
    container: identity.container,
    instanceId: node.instanceId,
    slurmJobId: identity.slurmJobId,
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
    tags: tags.filter((tag): tag is readonly [string, string] => tag[1] !== null).sort(byKey),
    transitiveTagKeys: (rule?.transitiveTagKeys ?? []).filter((key) => !without.has(key)).sort(),
    policyArns: rule?.policyArns ?? [],
    policy: rule?.policy ?? null,
    externalId: rule?.externalId ?? null,
  };
}

const CGROUP: Unknown = { what: "the cgroup, which is not known", passing: false };
const unavailableUser = (why: string): Unknown => ({
  what: `the user's name, which cannot be told for now: ${why}`,
  passing: true,
});
const unavailableGroups = (why: string): Unknown => ({
  what: `groups, not all of which can be told for now: ${why}`,
  passing: true,
});
const noName = (what: string): Unknown => ({
  what: `${what}, and the uid has no name ("nameless: default" in the configuration passes it over)`,
  passing: false,
});

/** Whether a part of a match holds, or why that is unknown. */
type Verdict = boolean | Unknown;

/**
 * A match holds where all of its parts hold; a list holds where any of its items does (three-valued logic: false, else unknown,
 * else true).
 */
function compileMatch(match: Match, nameless: RulesConfig["nameless"]): (identity: Identity) => Verdict {
  const parts: ((identity: Identity) => Verdict)[] = [];
  const { user: users, uid: uids, group: groups, slurmJob } = match;
  if (uids !== undefined) parts.push((identity) => uidMatches(uids, identity));
  if (users !== undefined) {
    parts.push(({ user, userUnavailable, uid }) => {
      if (userUnavailable !== undefined) return unavailableUser(userUnavailable);
      if (user !== null) return users.includes(user);
      return uid !== null && nameless === "refuse" && noName("users");
    });
  }
  if (groups !== undefined) {
    parts.push((identity) => {
      if (identity.userUnavailable !== undefined) return unavailableUser(identity.userUnavailable);
      if (identity.groups.some((group) => groups.includes(group))) return true;
      if (identity.groupsUnavailable !== undefined) return unavailableGroups(identity.groupsUnavailable);
      return identity.user === null && identity.uid !== null && nameless === "refuse" && noName("groups");
    });
  }
  const globs = match.cgroup?.map(compileGlob);
  const units = match.unit?.map(compileGlob);
  if (globs !== undefined || units !== undefined || slurmJob !== undefined) {
    parts.push(({ cgroup, slurmJobId }) => {
      if (cgroup === null) return CGROUP;
      if (globs !== undefined && !globs.some((glob) => glob(cgroup))) return false;
      const unit = systemUnitOf(cgroup);
      if (units !== undefined && (unit === null || !units.some((glob) => glob(unit)))) return false;
      return slurmJob === undefined || slurmJob === (slurmJobId !== null);
    });
  }
  return (identity) => {
    let verdict: Verdict = true;
    for (const part of parts) {
      const one = part(identity);
      if (one === false) return false;
      if (verdict === true) verdict = one;
    }
    return verdict;
  };
}

/** Matches a subordinate uid by itself and by its owner's uid, since the owner took it with newuidmap(1). */
function uidMatches(ranges: NonNullable<Match["uid"]>, { uid, ownerUid }: Identity): boolean {
  const inRanges = (one: number) => ranges.some(({ from, to }) => from <= one && one <= to);
  return (uid !== null && inRanges(uid)) || (ownerUid !== undefined && inRanges(ownerUid));
}
