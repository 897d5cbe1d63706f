import { slurmJobNameOf } from "../identity/slurm-cgroup.ts";
import { type Identity, UNKNOWN_IDENTITY } from "../identity/types.ts";
import { compileRules, type Decision } from "./decide.ts";
import type { RulesConfig } from "./types.ts";

/**
 * Tests of a policy: the decision that a given caller must get. They need no node, and a configuration whose tests fail is not
 * loaded. src/config/policy-tests.ts has their shape in a file.
 */

/**
 * The caller. Defaults: no groups, a login's cgroup, the instance id `i-INSTANCE`, the host name `HOSTNAME`, the region `REGION`.
 */
export interface GivenCaller {
  readonly user?: string | undefined;
  readonly uid?: number | undefined;
  readonly groups?: readonly string[] | undefined;
  /** The id of the Slurm job that the caller is in. */
  readonly slurmJob?: string | undefined;
  /** The system service that the caller is in. */
  readonly unit?: string | undefined;
  /** The path of the caller's cgroup v2. */
  readonly cgroup?: string | undefined;
  /** The address of a bridged container, which has no uid. */
  readonly container?: string | undefined;
  readonly instanceId?: string | undefined;
  readonly region?: string | undefined;
}

/** The expected decision. What is left out is not compared. */
export interface ExpectedDecision {
  /** The ARN of the role, or `none`: the caller is refused. */
  readonly role?: string | undefined;
  /** The name of the rule that decides; null: none matches. */
  readonly rule?: string | null | undefined;
  readonly sessionName?: string | undefined;
  readonly sourceIdentity?: string | null | undefined;
  /** All tags of the session. */
  readonly tags?: Readonly<Record<string, string>> | undefined;
  /** All managed session policies, in any order. */
  readonly policyArns?: readonly string[] | undefined;
  /** Names of the grants that match, in any order. */
  readonly grants?: readonly string[] | undefined;
  /** Whether the caller is exempt, and keeps the instance role. Platform accounts are not known here. */
  readonly exempt?: boolean | undefined;
}

/** One test. */
export interface PolicyTest {
  readonly name?: string | undefined;
  readonly given: GivenCaller;
  readonly expect: ExpectedDecision;
}

/** A test that failed. */
export interface FailedTest {
  /** Place in the list, from 0. */
  readonly index: number;
  /** What was expected and what the rules gave, in words that follow the test's name. */
  readonly why: string;
}

/** What the tests need of a configuration. */
export type TestedConfig = RulesConfig & { readonly exempt: readonly string[] };

/** Runs the tests against the rules. Pure: asks neither the node nor its directory. */
export function failedTests(config: TestedConfig, tests: readonly PolicyTest[]): FailedTest[] {
  const rules = compileRules(config, { hostname: "HOSTNAME" });
  return tests.flatMap((test, index) => {
    const identity = identityOfGiven(test.given);
    if (typeof identity === "string") return [{ index, why: `(${nameOf(test, index)}) ${identity}` }];
    const asksForUid = config.rules.find(({ match }) => match.uid !== undefined);
    if (asksForUid !== undefined && identity.uid === null && identity.container === null) {
      const rule = JSON.stringify(asksForUid.name);
      return [
        {
          index,
          why: `(${nameOf(test, index)}) gives no uid, and the rule ${rule} asks for one: add given.uid`,
        },
      ];
    }
    const exempt = isExempt(config, identity);
    const { instanceId = "i-INSTANCE", region = "REGION" } = test.given;
    const decision = exempt ? null : rules.decide(identity, instanceId, region);
    const differences = differencesOf(test.expect, decision);
    if (differences.length === 0) return [];
    const reason = decision === null ? "exempt, with the instance role" : decision.reason;
    return [{ index, why: `(${nameOf(test, index)}) ${differences.join("; ")} (${reason})` }];
  });
}

/** The name of a test in quotes; without one, whom it gives. */
export const nameOf = ({ name, given: { user, uid, container } }: PolicyTest, index: number): string =>
  JSON.stringify(name ?? user ?? (uid === undefined ? (container ?? `test ${index + 1}`) : `uid ${uid}`));

const isExempt = ({ exempt }: TestedConfig, { uid, user }: Identity): boolean =>
  uid === 0 || user === "root" || exempt.some((one) => one === user || one === String(uid));

/** The caller of a test; where it gives none, the reason, as a text that follows the test's name. */
export function identityOfGiven(test: GivenCaller): Identity | string {
  const { user, uid, groups, slurmJob, unit, cgroup, container } = test;
  if (user === undefined && uid === undefined && container === undefined)
    return "gives nobody: set given.user, given.uid or given.container";
  if (container !== undefined && (user !== undefined || uid !== undefined || groups !== undefined))
    return "gives a container and an account: a bridged container has neither user, uid nor groups";
  if ([slurmJob, unit, cgroup].filter((one) => one !== undefined).length > 1)
    return "gives more than one of slurmJob, unit and cgroup: each of them is the caller's cgroup";
  const path =
    slurmJob !== undefined
      ? `/system.slice/slurmstepd.scope/job_${slurmJob}/step_0/user/task_0`
      : unit !== undefined
        ? `/system.slice/${unit}`
        : (cgroup ?? "/user.slice");
  return {
    ...UNKNOWN_IDENTITY,
    uid: uid ?? null,
    container: container ?? null,
    user: user ?? null,
    groups: groups ?? [],
    // A container's cgroup is not known: its packets come through a bridge.
    ...(container === undefined ? { cgroup: path, slurmJobId: slurmJobNameOf(path) } : {}),
  };
}

const shown = (value: unknown): string => (value === null ? "none" : String(value));

/** What differs, each as `expects rule "a", and it is "b"`. @param decision null where the caller is exempt. */
function differencesOf(expect: PolicyTest["expect"], decision: Decision | null): string[] {
  const request = decision?.kind === "role" ? decision.request : null;
  const found = {
    role: decision === null ? "the instance role" : decision.kind === "role" ? decision.roleArn : "none",
    rule: decision?.rule ?? null,
    sessionName: request?.sessionName ?? null,
    sourceIdentity: request?.sourceIdentity ?? null,
    tags: request === null ? null : tagsText(Object.fromEntries(request.tags)),
    policyArns: request === null ? null : listText(request.policyArns),
    grants: decision?.kind === "role" && decision.grants !== undefined ? listText(decision.grants) : null,
    exempt: decision === null,
  };
  const wanted = {
    ...expect,
    tags: expect.tags === undefined ? undefined : tagsText(expect.tags),
    policyArns: expect.policyArns === undefined ? undefined : listText(expect.policyArns),
    grants: expect.grants === undefined ? undefined : listText(expect.grants),
  };
  return Object.entries(found).flatMap(([key, is]) => {
    const want = wanted[key as keyof typeof found];
    return want === undefined || want === is ? [] : [`expects ${key} ${shown(want)}, and gets ${shown(is)}`];
  });
}

const listText = (list: readonly string[]): string => JSON.stringify([...new Set(list)].sort());

const tagsText = (tags: Readonly<Record<string, string>>): string =>
  JSON.stringify(Object.fromEntries(Object.entries(tags).sort(([a], [b]) => (a < b ? -1 : 1))));
