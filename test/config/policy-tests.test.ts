import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadTests, parseConfig } from "../../src/config/load.ts";
import { ImdsProxyError } from "../../src/errors.ts";
import { failedTests } from "../../src/rules/policy-tests.ts";

const role = (name: string) => `arn:aws:iam::842413447717:role/${name}`;
const RULES = `role: ${role("Login")}
exempt: [root, "3000", agent]
sessionName: "{user}@{instanceId}"
rules:
  - name: nightly
    match: { user: batch, unit: nightly.service }
    role: ${role("Nightly")}
  - name: jobs
    match: { group: [data-eng], slurmJob: true }
    role: ${role("DataEng")}
    sourceIdentity: "{user}"
    tags: { job: "{slurmJobId}", team: data }
  - name: guests
    match: { uid: 5000-5999 }
    role: none
`;
const withTests = (...tests: string[]) => `${RULES}tests:\n${tests.map((one) => `  - ${one}\n`).join("")}`;

/** What the loader says of these tests; null where all hold. */
function complaint(...tests: string[]): string | null {
  try {
    parseConfig(withTests(...tests), "config.yaml");
    return null;
  } catch (error) {
    if (error instanceof ImdsProxyError && error.code === "config") return error.message;
    throw error;
  }
}

describe("tests of a policy hold where the rules say it:", () => {
  test.each([
    [
      "the default role",
      `{ given: { user: eve, uid: 1 }, expect: { role: "${role("Login")}", rule: null } }`,
    ],
    ["the session's name", "{ given: { user: eve, uid: 1 }, expect: { sessionName: eve@i-INSTANCE } }"],
    [
      "the session's name on an instance",
      "{ given: { user: eve, uid: 1, instanceId: i-0a }, expect: { sessionName: eve@i-0a } }",
    ],
    [
      "a job's role, source identity and tags",
      `{ given: { user: ann, uid: 1, groups: data-eng, slurmJob: 12 }, expect: { rule: jobs, sourceIdentity: ann, tags: { job: 12, team: data } } }`,
    ],
    ["no job without its group", "{ given: { user: a, uid: 1, slurmJob: 12 }, expect: { rule: null } }"],
    ["no job outside of one", "{ given: { user: a, uid: 1, groups: [data-eng] }, expect: { rule: null } }"],
    ["a unit", "{ given: { user: batch, uid: 9, unit: nightly.service }, expect: { rule: nightly } }"],
    [
      "no unit that the user's own manager made",
      "{ given: { user: batch, uid: 9, cgroup: /user.slice/user-9.slice/user@9.service/app.slice/nightly.service }, expect: { rule: null } }",
    ],
    ["a refusal", "{ given: { uid: 5001, user: g }, expect: { role: none, rule: guests } }"],
    [
      "a uid without a name, which rules by user refuse",
      "{ given: { uid: 77, unit: nightly.service }, expect: { role: none, rule: nightly } }",
    ],
    ["a container", "{ given: { container: 172.17.0.2 }, expect: { rule: null } }"],
    ["root", "{ given: { uid: 0 }, expect: { exempt: true } }"],
    ["an exempt uid", "{ given: { uid: 3000 }, expect: { exempt: true } }"],
    ["an exempt name", "{ given: { uid: 3001, user: agent }, expect: { exempt: true } }"],
    ["nobody else exempt", "{ given: { uid: 3002, user: agent2 }, expect: { exempt: false } }"],
  ])("%s", (_, text) => expect(complaint(text)).toBeNull());
});

describe("tests of grants and of the region hold where the rules say it:", () => {
  const POLICY = "arn:aws:iam::842413447717:policy";
  const LAKE = `rules:
  - name: lake
    match: { uid: 6000-6999 }
    role: ${role("Lake")}
    sessionName: "{user}@{region}"
    grant: union
    grants:
      - { name: readers, match: { group: read }, policyArns: ["${POLICY}/B", "${POLICY}/A"] }
      - { name: writers, match: { group: write }, policyArns: ["${POLICY}/B"] }
`;
  const loads = (one: string) => () => parseConfig(`${LAKE}tests: [${one}]\n`, "config.yaml");
  test.each([
    [
      "the policies of grants, in any order",
      `{ given: { user: l, uid: 6001, groups: [read, write] }, expect: { rule: lake, grants: [writers, readers], policyArns: ["${POLICY}/B", "${POLICY}/A"] } }`,
    ],
    [
      "nothing granted",
      "{ given: { user: l, uid: 6001 }, expect: { rule: lake, grants: [], policyArns: [] } }",
    ],
    [
      "a region",
      "{ given: { user: l, uid: 6001, region: eu-north-1 }, expect: { sessionName: l@eu-north-1 } }",
    ],
    ["the region of nowhere", "{ given: { user: l, uid: 6001 }, expect: { sessionName: l@REGION } }"],
  ])("%s", (_, text) => expect(loads(text)).not.toThrow());
  test("and say what is granted where it is not that", () => {
    const given = "{ user: l, uid: 6001, groups: [write] }";
    expect(loads(`{ given: ${given}, expect: { grants: [], policyArns: ["${POLICY}/A"] } }`)).toThrow(
      `("l") expects policyArns ["${POLICY}/A"], and gets ["${POLICY}/B"]; expects grants [], and gets ["writers"]`,
    );
    expect(loads("{ given: { user: x, uid: 1 }, expect: { grants: [] } }")).toThrow(
      "expects grants [], and gets none (no rule matched",
    );
  });
});

describe("a configuration whose tests fail is not loaded, and says", () => {
  const GOOD = "{ given: { uid: 0 }, expect: { exempt: true } }";
  test.each([
    [
      "what was expected and what came of it, and why",
      "{ name: analysts, given: { user: a, uid: 1 }, expect: { rule: jobs } }",
      'config.yaml:18: tests[1] ("analysts") expects rule jobs, and gets none (no rule matched: the default role)',
    ],
    [
      "each difference",
      `{ given: { user: g, uid: 5001 }, expect: { role: "${role("Login")}", rule: null } }`,
      `("g") expects role ${role("Login")}, and gets none; expects rule none, and gets guests (rule "guests" gives no role)`,
    ],
    [
      "that somebody is exempt",
      "{ given: { uid: 3000 }, expect: { role: none } }",
      '("uid 3000") expects role none, and gets the instance role (exempt, with the instance role)',
    ],
    [
      "which tags differ",
      "{ given: { user: a, uid: 1, groups: [data-eng], slurmJob: 3 }, expect: { tags: { team: data } } }",
      '("a") expects tags {"team":"data"}, and gets {"job":"3","team":"data"}',
    ],
    [
      "that a uid is needed",
      "{ given: { user: a }, expect: { rule: null } }",
      '("a") gives no uid, and the rule "guests" asks for one: add given.uid',
    ],
    [
      "that nobody is given",
      "{ given: { groups: [x] }, expect: { rule: null } }",
      "gives nobody: set given.user",
    ],
    [
      "that a container has no account",
      "{ given: { container: 172.17.0.2, uid: 1 }, expect: { rule: null } }",
      "gives a container and an account",
    ],
    [
      "that there is one cgroup",
      "{ given: { uid: 1, slurmJob: 1, unit: x.service }, expect: { rule: null } }",
      "gives more than one of slurmJob, unit and cgroup",
    ],
    ["that nothing is expected", "{ given: { uid: 1 }, expect: {} }", "must say what is expected"],
    [
      "which key is unknown",
      "{ given: { uid: 1, gruops: [x] }, expect: { rule: null } }",
      'tests[1].given.gruops is not a known key (found "gruops"); known here: user, uid, groups',
    ],
    [
      "that a role is none",
      "{ given: { uid: 1 }, expect: { role: Login } }",
      "must be none, or the ARN of an IAM role",
    ],
  ])("%s", (_, text, said) => expect(complaint(GOOD, text)).toContain(said));

  test("where, with a caret under the place", () =>
    expect(complaint(GOOD, "{ given: { uid: 1, user: x }, expect: { exempt: true } }")).toEndWith(
      [
        "",
        "config.yaml:18:5",
        "18 |   - { given: { uid: 1, user: x }, expect: { exempt: true } }",
        "   |     ^",
      ].join("\n  "),
    ));

  test("but shows no line that could hold a secret, and no control character of the file", () => {
    const secret = complaint("{ name: externalId abc, given: { uid: 1 }, expect: { exempt: true } }");
    expect(secret).not.toContain("^");
    const odd = complaint('{ name: "a\u0085b", given: { uid: 1 }, expect: { exempt: true } }');
    expect(odd).toContain('17 |   - { name: "a?b", given');
  });
});

describe("tests in a file of their own", () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "imdsproxy-tests-"));
  });
  afterAll(() => rmSync(directory, { recursive: true }));
  const write = (text: string) => {
    const path = join(directory, "tests.yaml");
    writeFileSync(path, text);
    return path;
  };
  test("are run against a configuration, and fail with their own lines", () => {
    const config = parseConfig(RULES, "config.yaml");
    const path = write("# policy\ntests:\n  - { given: { uid: 0 }, expect: { exempt: false } }\n");
    const { tests, failure } = loadTests(path);
    const failed = failedTests(config, tests);
    expect(failure(failed).message).toStartWith(
      `${path}:3: tests[0] ("uid 0") expects exempt false, and gets true`,
    );
  });
  test.each([
    ["another key", "rules: []\ntests: []\n", ":1: rules is not a known key"],
    ["no key", "{}", ":1: must have the key tests"],
    [
      "a wrong value",
      "tests:\n  - given: { uid: -1 }\n    expect: { rule: x }\n",
      ":2: tests[0].given.uid must be a uid",
    ],
  ])("refuse %s", (_, text, said) => {
    const path = write(text);
    expect(() => loadTests(path)).toThrow(`${path}${said}`);
  });
  test("say where no file is", () => {
    expect(() => loadTests(join(directory, "none.yaml"))).toThrow("no such file");
  });
});
