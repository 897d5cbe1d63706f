import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { parseConfig } from "../../src/config/load.ts";
import { allows, type TrustStatement } from "../../src/demo/sts/trust.ts";
import { type Identity, UNKNOWN_IDENTITY } from "../../src/identity/types.ts";
import { askedOfIam } from "../../src/rules/conditions.ts";
import { compileRules } from "../../src/rules/decide.ts";
import { trustStatement } from "../../src/sessions/denial.ts";
import type { SessionRequest } from "../../src/sessions/types.ts";
import { anyText, holds } from "../support/fuzz.ts";

/** Conditions of a trust policy, evaluated by the stand-in's reading of IAM: what the rules ask for passes, and nothing else. */

const NODE = "arn:aws:iam::842413447717:role/Node";
const ROLE = "arn:aws:iam::842413447717:role/R";

interface RuleText {
  readonly sessionName?: string;
  readonly sourceIdentity?: string;
  readonly tags?: Readonly<Record<string, string>>;
  readonly transitiveTagKeys?: readonly string[];
  readonly externalId?: string;
}

/** What the rule asks of STS for this caller, and the statement that its role's trust policy has. */
function askedFor(
  rule: RuleText,
  identity: Identity,
): { request: SessionRequest; statement: TrustStatement } {
  const config = parseConfig(
    JSON.stringify({
      cluster: "hpc",
      rules: [{ name: "r", role: ROLE, match: { group: ["g", "h"] }, ...rule }],
    }),
    "config.yaml",
  );
  const decision = compileRules(config).decide(identity, "i-0abc");
  if (decision.kind !== "role") throw new Error(decision.reason);
  const [asked] = askedOfIam(config);
  if (asked === undefined) throw new Error("the rule asks for nothing");
  return { request: decision.request, statement: trustStatement(asked.request, NODE, asked.conditions) };
}

/** A request's parameters as the SDK sends them (STS API reference, AssumeRole). */
function parametersOf(request: SessionRequest): Record<string, string> {
  return Object.fromEntries([
    ["RoleArn", request.roleArn],
    ["RoleSessionName", request.sessionName],
    ...(request.sourceIdentity === null ? [] : [["SourceIdentity", request.sourceIdentity]]),
    ...(request.externalId === null ? [] : [["ExternalId", request.externalId]]),
    ...request.tags.flatMap(([key, value], i) => [
      [`Tags.member.${i + 1}.Key`, key],
      [`Tags.member.${i + 1}.Value`, value],
    ]),
    ...request.transitiveTagKeys.map((key, i) => [`TransitiveTagKeys.member.${i + 1}`, key]),
  ]);
}
const passes = (statement: TrustStatement, request: SessionRequest, userId = "AROA:i-0abc") =>
  allows(statement, NODE, userId, parametersOf(request));

const alice: Identity = { ...UNKNOWN_IDENTITY, uid: 2001, user: "alice", groups: ["h"], cgroup: "/" };
const FULL: RuleText = {
  sessionName: "hpc.{user}@{instanceId}",
  sourceIdentity: "{user}",
  tags: { team: "data", who: "u:{uid}", job: "{slurmJobId}" },
  transitiveTagKeys: ["team"],
  externalId: "pin-1",
};

test("what the rules ask for passes the conditions, whoever it is (property)", () => {
  const template = fc
    .array(
      fc.constantFrom(
        "{user}",
        "{uid}",
        "{instanceId}",
        "{slurmJobId}",
        "a",
        "-",
        "*",
        "ä",
        "x".repeat(60),
        "@",
        " ",
      ),
      {
        minLength: 1,
        maxLength: 5,
      },
    )
    .map((parts) => parts.join(""));
  const who = fc.record({
    user: fc.option(anyText({ maxLength: 90 }).filter((text) => text !== "")),
    uid: fc.nat(),
    slurmJobId: fc.option(fc.nat().map(String)),
  });
  const rule = fc.record(
    {
      sessionName: template,
      sourceIdentity: fc.constantFrom(
        "{user}",
        "{uid}",
        "of {user}",
        "fixed",
        "{slurmUser}/{slurmJobId}",
        "{group}",
      ),
      tags: fc.dictionary(fc.constantFrom("team", "job", "a:b"), template, { maxKeys: 3 }),
    },
    { requiredKeys: [] },
  );
  holds(
    fc.property(rule, who, (text, one) => {
      const { request, statement } = askedFor(text, { ...alice, ...one });
      expect(passes(statement, request)).toBe(true);
    }),
    2_000,
  );
});

describe("what the rules do not ask for does not:", () => {
  const { request, statement } = askedFor(FULL, alice);
  test("(it does as it is, in a job and outside of one)", () => {
    expect(passes(statement, request)).toBe(true);
    const job = askedFor(FULL, { ...alice, slurmJobId: "12" });
    expect(job.statement).toEqual(statement);
    expect(passes(statement, job.request)).toBe(true);
  });
  test.each<[string, Partial<SessionRequest>]>([
    ["another name", { sessionName: "mallory" }],
    ["no source identity", { sourceIdentity: null }],
    ["a tag's other value", { tags: request.tags.map(([k, v]) => [k, k === "team" ? "ops" : v] as const) }],
    [
      "a tag's other beginning",
      { tags: request.tags.map(([k, v]) => [k, k === "who" ? "2001" : v] as const) },
    ],
    ["a tag that is missing", { tags: request.tags.filter(([key]) => key !== "team") }],
    ["a tag more", { tags: [...request.tags, ["admin", "yes"]] }],
    ["another transitive tag", { transitiveTagKeys: ["team", "who"] }],
    ["another external id", { externalId: "guess" }],
    ["no external id", { externalId: null }],
  ])("%s", (_, change) => expect(passes(statement, { ...request, ...change })).toBe(false));
  test("nor the same by another role", () => {
    expect(allows(statement, `${NODE}2`, "AROA:i-0abc", parametersOf(request))).toBe(false);
  });
  test("nor with tags or a source identity where the rules have none", () => {
    const plain = askedFor({}, alice);
    expect(passes(plain.statement, plain.request)).toBe(true);
    expect(passes(plain.statement, { ...plain.request, tags: [["a", "b"]] })).toBe(false);
    expect(passes(plain.statement, { ...plain.request, sourceIdentity: "eve" })).toBe(false);
  });
});

test("the value that is asked for is sts:SourceIdentity: the node's own session has no aws:SourceIdentity", () => {
  const { statement } = askedFor(FULL, alice);
  expect(JSON.stringify(statement)).toContain("sts:SourceIdentity");
  expect(JSON.stringify(statement)).not.toContain("aws:SourceIdentity");
});

test("a tag that a container has not needs its permission all the same", () => {
  const { request, statement } = askedFor({ tags: { who: "{uid}" } }, alice);
  expect(statement.Action).toContain("sts:TagSession");
  expect(passes(statement, request)).toBe(true);
});

test("a rule whose texts may be anything has no condition", () => {
  const { statement } = askedFor({ sessionName: "{user}@{instanceId}" }, alice);
  expect(statement).toEqual({ Effect: "Allow", Principal: { AWS: NODE }, Action: "sts:AssumeRole" });
});
