import { describe, expect, test } from "bun:test";
import { parseConfig } from "../../src/config/load.ts";
import { asksForJobs, configWarnings } from "../../src/config/warnings.ts";
import { ImdsProxyError } from "../../src/errors.ts";
import { nodeWarnings } from "../../src/service/node-warnings.ts";

const POLICY = "arn:aws:iam::842413447717:policy/Read";
const rule = (more: string) => `rules:
  - name: lake
    role: arn:aws:iam::842413447717:role/Lake
    ${more}
`;
const GRANTS = `grants: [{ name: readers, match: { group: data-eng }, policyArns: ["${POLICY}"] }]`;
const grants = (...all: string[]) => rule(`grant: union\n    grants: [${all.join(", ")}]`);
const grant = (name: string, arn: string) => `{ name: ${name}, policyArns: ["${arn}"] }`;

function complaint(text: string): string | null {
  try {
    parseConfig(text, "config.yaml");
    return null;
  } catch (error) {
    if (error instanceof ImdsProxyError && error.code === "config") return error.message;
    throw error;
  }
}

describe("grant: union is taken", () => {
  test.each([
    ["with grants of the role's own account", rule(`grant: union\n    ${GRANTS}`)],
    ["with a policy of AWS's", grants(grant("a", "arn:aws:iam::aws:policy/job-function/ViewOnlyAccess"))],
    ["with a grant for everybody of the rule", grants(grant("all", POLICY))],
  ])("%s", (_, text) => expect(complaint(text)).toBeNull());
});

describe("grant: union is an error, by line, and what would be right,", () => {
  test.each([
    [
      "as another word",
      rule(`grant: all\n    ${GRANTS}`),
      'config.yaml:4: rules[0].grant must be union: the policies of all grants that match, together (found "all")',
    ],
    ["without grants", rule("grant: union"), "config.yaml:4: rules[0].grant must have grants beside it"],
    [
      "with an empty list",
      rule("grant: union\n    grants: []"),
      "config.yaml:5: rules[0].grants must not be empty",
    ],
    ["left out", rule(GRANTS), "config.yaml:4: rules[0].grants must stand beside grant: union"],
    [
      "without a role",
      `rules: [{ name: r, role: none, grant: union, ${GRANTS} }]\n`,
      "rules[0].grant has no role to grant something of",
    ],
    [
      "beside policyArns, which would be everybody's",
      rule(`grant: union\n    policyArns: ["${POLICY}"]\n    ${GRANTS}`),
      "config.yaml:5: rules[0].policyArns must not stand beside grant: union",
    ],
    [
      "beside a policy",
      rule(`grant: union\n    policy: { Statement: [] }\n    ${GRANTS}`),
      "config.yaml:5: rules[0].policy must not stand beside grant: union",
    ],
    [
      "with a policy of another account",
      grants(grant("a", "arn:aws:iam::111111111111:policy/Read")),
      "rules[0].grants[0].policyArns[0] must be a policy of AWS's or of the role's own account, 842413447717",
    ],
    [
      "with a policy of another partition",
      grants(grant("a", "arn:aws-cn:iam::842413447717:policy/Read")),
      "must be a policy of AWS's or of the role's own account",
    ],
    [
      "with a policy that is none",
      grants(grant("a", "Read")),
      'rules[0].grants[0].policyArns[0] must be the ARN of a managed policy (found "Read")',
    ],
    [
      "with a grant of nothing",
      grants("{ name: a, policyArns: [] }"),
      "rules[0].grants[0].policyArns must not be empty",
    ],
    [
      "with two grants of a name",
      grants(grant("a", POLICY), grant("a", POLICY)),
      'rules[0].grants[1].name is the name of an earlier grant of this rule (found "a")',
    ],
    [
      "with an unknown key",
      grants(`{ name: a, policyArns: ["${POLICY}"], policy: {} }`),
      'rules[0].grants[0].policy is not a known key (found "policy"); known here: name, match, policyArns',
    ],
    [
      "with a unit alone",
      grants(`{ name: a, match: { unit: x.service }, policyArns: ["${POLICY}"] }`),
      "must stand beside user, uid or group",
    ],
  ])("%s", (_, text, expected) => expect(complaint(text)).toContain(expected));
});

describe("config check warns", () => {
  const named = (name: string, count: number, match = "") =>
    `{ name: ${name}, ${match} policyArns: [${Array.from({ length: count }, (_, i) => `"arn:aws:iam::842413447717:policy/${name}${i}"`).join(", ")}] }`;
  test("of grants that are together more than STS takes", () => {
    const config = parseConfig(grants(named("a", 6), named("b", 5)), "config.yaml");
    expect(configWarnings(config)).toEqual([
      {
        keys: ["rules", 0, "grants"],
        text: expect.stringContaining(
          'the rule "lake" refuses a caller whom all of its grants match: the grants "a" and "b" have 11 policies together',
        ),
      },
    ]);
    expect(configWarnings(parseConfig(grants(named("a", 6), named("b", 4)), "config.yaml"))).toEqual([]);
  });
  test("of users and groups of a grant whom the node does not know, and of jobs that it cannot see", async () => {
    const text = grants(named("a", 1, "match: { user: nobody-here, group: no-group, slurmJob: true },"));
    const config = parseConfig(text, "config.yaml");
    expect(asksForJobs(config)).toBe(true);
    const found = await nodeWarnings(config, { has: async () => false }, () => "no jobs here");
    expect(found).toEqual([
      expect.stringContaining('the rule "lake" names the user "nobody-here"'),
      expect.stringContaining('the rule "lake" names the group "no-group"'),
      "no jobs here",
    ]);
  });
});
