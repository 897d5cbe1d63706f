import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { parseConfig } from "../../src/config/load.ts";
import { type Identity, UNKNOWN_IDENTITY } from "../../src/identity/types.ts";
import { compileRules, type Decision } from "../../src/rules/decide.ts";
import { DENY_ALL, MOST_POLICIES } from "../../src/rules/grants.ts";
import { sessionKey } from "../../src/sessions/key.ts";
import { holds } from "../support/fuzz.ts";

const ROLE = "arn:aws:iam::842413447717:role/Lake";
const arn = (name: string) => `arn:aws:iam::842413447717:policy/${name}`;
const alice: Identity = { ...UNKNOWN_IDENTITY, uid: 2001, user: "alice", cgroup: "/" };
const IN_JOB = { cgroup: "/system.slice/slurmstepd.scope/job_12/step_0/user/task_0", slurmJobId: "12" };

interface GrantText {
  readonly name: string;
  readonly match?: object;
  readonly policyArns: readonly string[];
}
const GRANTS: readonly GrantText[] = [
  { name: "readers", match: { group: "data-eng" }, policyArns: [arn("Read"), arn("List")] },
  { name: "models", match: { group: ["ml", "ai"] }, policyArns: [arn("Models"), arn("List")] },
  { name: "alice's", match: { user: "alice" }, policyArns: [arn("Alice")] },
  { name: "jobs", match: { slurmJob: true, group: "data-eng" }, policyArns: [arn("Scratch")] },
];
const rulesOf = (grants: readonly GrantText[], more: object = {}) =>
  compileRules(
    parseConfig(
      JSON.stringify({
        sessionName: "{user}",
        rules: [{ name: "lake", role: ROLE, grant: "union", grants }],
        ...more,
      }),
      "config.yaml",
    ),
  );
const decide = (who: Partial<Identity>, grants = GRANTS, more: object = {}): Decision =>
  rulesOf(grants, more).decide({ ...alice, ...who }, null);
const policies = (who: Partial<Identity>, grants = GRANTS) => {
  const decision = decide(who, grants);
  return decision.kind === "role" ? decision.request.policyArns : decision.reason;
};

describe("grant: union gives", () => {
  test("the policies of all grants that match together, each once and sorted", () => {
    const decision = decide({ groups: ["data-eng", "ml"] });
    expect(decision).toMatchObject({
      kind: "role",
      roleArn: ROLE,
      grants: ["readers", "models", "alice's"],
      reason: 'rule "lake" matched, with the grants "readers", "models" and "alice\'s"',
      request: { policyArns: [arn("Alice"), arn("List"), arn("Models"), arn("Read")], policy: null },
    });
  });
  test("one grant's own, without a policy that denies", () => {
    expect(decide({ user: "bob", groups: ["ai"] })).toMatchObject({
      grants: ["models"],
      reason: 'rule "lake" matched, with the grant "models"',
      request: { policyArns: [arn("List"), arn("Models")], policy: null },
    });
  });
  test("a user whom none matches nothing: a policy that denies everything, never the whole role", () => {
    expect(decide({ user: "eve", groups: ["other"] })).toMatchObject({
      kind: "role",
      grants: [],
      reason: 'rule "lake" matched, and none of its grants: everything is denied',
      request: { policyArns: [], policy: DENY_ALL },
    });
    expect(JSON.parse(DENY_ALL).Statement).toEqual([{ Effect: "Deny", Action: "*", Resource: "*" }]);
  });
  test("a container, which no match by user or group names, nothing", () => {
    const container = { ...UNKNOWN_IDENTITY, container: "172.17.0.2", cgroup: null };
    const [readers, models] = GRANTS;
    const decision = rulesOf([readers, models].filter((one) => one !== undefined)).decide(container, null);
    expect(decision).toMatchObject({ grants: [], request: { policy: DENY_ALL } });
  });
  test("everybody what a grant without a match has", () => {
    const all = [...GRANTS, { name: "all", policyArns: [arn("Base")] }];
    expect(policies({ user: "eve" }, all)).toEqual([arn("Base")]);
  });
  test("a user whose account is called like a group nothing of the group's", () => {
    expect(decide({ user: "ml", groups: ["users"] })).toMatchObject({
      grants: [],
      request: { policy: DENY_ALL },
    });
    expect(decide({ user: "bob", groups: ["alice"] })).toMatchObject({
      grants: [],
      request: { policy: DENY_ALL },
    });
  });
  test("the default role nothing less: a rule above it decides, or does not", () => {
    const rule = { name: "lake", match: { group: "lake" }, role: ROLE, grant: "union", grants: GRANTS };
    const role = "arn:aws:iam::842413447717:role/Login";
    expect(decide({ groups: ["ml"] }, GRANTS, { role, rules: [rule] })).toMatchObject({
      roleArn: role,
      request: { policyArns: [], policy: null },
    });
  });
  test("a session of a job's own where a grant asks for the job", () => {
    const [login, job] = [decide({ groups: ["data-eng"] }), decide({ groups: ["data-eng"], ...IN_JOB })];
    if (login.kind !== "role" || job.kind !== "role") throw new Error("refused");
    expect([login.ofJob, job.ofJob]).toEqual([undefined, true]);
    expect(job.request.policyArns).toEqual([...login.request.policyArns, arn("Scratch")].sort());
    expect(sessionKey(job.request)).not.toBe(sessionKey(login.request));
  });
});

describe("a grant of which it is not known whether it matches refuses, since its policies may deny something:", () => {
  test.each<[string, Partial<Identity>, string, true | undefined]>([
    [
      "groups that cannot be told for now",
      { groupsUnavailable: "sss (unavailable)" },
      'the grant "readers" of rule "lake" asks for groups, not all of which can be told for now',
      true,
    ],
    [
      "a name that cannot be told for now",
      { user: null, userUnavailable: "sss (unavailable)" },
      "cannot be told for now",
      true,
    ],
    [
      "a cgroup that is not known",
      { groups: ["data-eng"], cgroup: null },
      '"jobs" of rule "lake"',
      undefined,
    ],
    ["a uid without a name", { user: null }, "the uid has no name", undefined],
  ])("%s", (_, who, reason, passing) => {
    const decision = decide(who);
    expect(decision).toMatchObject({ kind: "refuse", rule: "lake", reason: expect.stringContaining(reason) });
    expect(decision.kind === "refuse" && decision.passing).toBe(passing);
  });
});

describe("more policies than STS takes", () => {
  const many = (name: string, count: number, group: string) => ({
    name,
    match: { group },
    policyArns: Array.from({ length: count }, (_, i) => arn(`${name}${i}`)),
  });
  const grants = [many("a", 6, "a"), many("b", 5, "b"), many("c", 4, "c")];
  test("refuse, and the refusal names the grants and the policy that is one too many", () => {
    expect(decide({ groups: ["a", "b"] }, grants)).toEqual({
      kind: "refuse",
      rule: "lake",
      reason:
        'rule "lake" matched, but the grants "a" and "b" have 11 policies together, and STS takes 10: ' +
        `${arn("b4")} of "b" is one too many`,
    });
  });
  test("ten do not, nor eleven of which two are one", () => {
    expect(policies({ groups: ["a", "c"] }, grants)).toHaveLength(10);
    const twice = {
      name: "d",
      match: { group: "d" },
      policyArns: [...many("b", 4, "b").policyArns, arn("a0")],
    };
    expect(policies({ groups: ["a", "d"] }, [...grants, twice])).toHaveLength(10);
  });
  test("nor are 2,048 characters too many, and one more is", () => {
    const long = (length: number, name: string) => {
      const start = arn(`${name}/`);
      return { name, match: { group: name }, policyArns: [start + "x".repeat(length - start.length)] };
    };
    expect(policies({ groups: ["x", "y"] }, [long(1_024, "x"), long(1_024, "y")])).toHaveLength(2);
    expect(policies({ groups: ["x", "y"] }, [long(1_024, "x"), long(1_025, "y")])).toContain(
      'the grants "x" and "y" have 2 policies together, whose ARNs have 2049 characters, and STS takes 2048',
    );
  });
});

test("a session has the union of the policies exactly, in whatever order grants, groups and policies stand (property)", () => {
  const groups = ["a", "b", "c", "d"];
  const grant = fc.record({
    match: fc.record({ group: fc.subarray(groups, { minLength: 1 }) }),
    policyArns: fc.subarray(Array.from("PQRSTUVWXYZ", arn), { minLength: 1, maxLength: 10 }),
  });
  const named = fc
    .array(grant, { minLength: 1, maxLength: 5 })
    .map((all) => all.map((one, index) => ({ ...one, name: `g${index}` })));
  holds(
    fc.property(named, fc.subarray(groups), (grants, mine) => {
      const wanted = new Set(
        grants
          .filter(({ match }) => match.group.some((group) => mine.includes(group)))
          .flatMap(({ policyArns }) => policyArns),
      );
      const decision = decide({ user: "bob", groups: mine }, grants);
      if (wanted.size > MOST_POLICIES) {
        expect(decision.kind).toBe("refuse");
        return;
      }
      if (decision.kind !== "role") throw new Error(decision.reason);
      expect(new Set(decision.request.policyArns)).toEqual(wanted);
      expect(decision.request.policyArns).toHaveLength(wanted.size);
      expect(decision.request.policy === null).toBe(wanted.size > 0);
      const turned = decide(
        { user: "bob", groups: mine.toReversed() },
        grants.toReversed().map((one) => ({ ...one, policyArns: one.policyArns.toReversed() })),
      );
      if (turned.kind !== "role") throw new Error(turned.reason);
      expect(turned.request).toEqual(decision.request);
    }),
    1_000,
  );
});

test("needs and namedGroups have what grants look at", () => {
  const needs = (match: object) => rulesOf([{ name: "g", match, policyArns: [arn("P")] }]).needs;
  expect(needs({ group: "g" })).toMatchObject({ groups: true, cgroup: false });
  expect(needs({ slurmJob: true })).toMatchObject({ groups: false, cgroup: true });
  expect(needs({ user: "u", unit: "x.service" }).cgroup).toBe(true);
  expect([...rulesOf(GRANTS).namedGroups].sort()).toEqual(["ai", "data-eng", "ml"]);
});
