import { describe, expect, test } from "bun:test";
import { parseConfig } from "../../src/config/load.ts";
import type { Identity } from "../../src/identity/types.ts";
import { compileRules, type Decision } from "../../src/rules/decide.ts";

const role = (name: string) => `arn:aws:iam::842413447717:role/${name}`;
const identity = (more: Partial<Identity> = {}): Identity => ({
  uid: 2001,
  container: null,
  user: "alice",
  subordinate: false,
  groups: ["alice", "users"],
  cgroup: "/user.slice/user-2001.slice/session-3.scope",
  slurmJobId: null,
  ...more,
});
const IN_JOB = { cgroup: "/system.slice/slurmstepd.scope/job_12/step_0/user/task_0", slurmJobId: "12" };

function decide(config: object, who: Partial<Identity> = {}, instanceId: string | null = "i-0abc"): Decision {
  return compileRules(parseConfig(JSON.stringify(config), "test.yaml")).decide(identity(who), instanceId);
}
const decidedBy = (match: object, who: Partial<Identity> = {}): string | null => {
  const decision = decide({ rules: [{ name: "the rule", match, role: role("R") }] }, who);
  return decision.kind === "role" ? decision.rule : null;
};

describe("decide() without a rule that matches", () => {
  test("gives the default role", () => {
    expect(decide({ role: role("Default") })).toMatchObject({
      kind: "role",
      roleArn: role("Default"),
      rule: null,
    });
  });
  test("refuses where there is no default role", () => {
    expect(decide({})).toMatchObject({ kind: "refuse", rule: null });
    expect(decide({ rules: [{ name: "bob's", match: { user: "bob" }, role: role("R") }] })).toMatchObject({
      kind: "refuse",
    });
  });
});

describe("a rule matches", () => {
  const cases: [name: string, match: object, who: Partial<Identity>, matches: boolean][] = [
    ["anyone where it asks for nothing", {}, {}, true],
    ["by user", { user: "alice" }, {}, true],
    ["any user of a list", { user: ["bob", "alice"] }, {}, true],
    ["no other user", { user: "bob" }, {}, false],
    ["no user whose name begins alike", { user: "ali" }, {}, false],
    ["no uid without a name, by user", { user: "alice" }, { user: null }, false],
    ["by uid", { uid: 2001 }, {}, true],
    ["by a range, its ends included", { uid: ["2000-2001"] }, {}, true],
    ["no uid beside a range", { uid: ["2002-3000", 2000] }, {}, false],
    ["the highest uid", { uid: ["4294967294"] }, { uid: 4_294_967_294 }, true],
    ["no container by uid", { uid: ["0-4294967294"] }, { uid: null, container: "172.17.0.2" }, false],
    ["by group", { group: "users" }, {}, true],
    [
      "a group whose name has a space, as a whole",
      { group: "domain admins" },
      { groups: ["domain admins"] },
      true,
    ],
    ["no group by a word of its name", { group: "admins" }, { groups: ["domain admins"] }, false],
    ["by cgroup, a star within one segment", { cgroup: "/user.slice/*/*" }, {}, true],
    ["no cgroup further down by one star", { cgroup: "/user.slice/*" }, {}, false],
    ["a cgroup further down by two", { cgroup: "/user.slice/**" }, {}, true],
    ["inside a Slurm job", { slurmJob: true }, IN_JOB, true],
    ["nobody outside of one", { slurmJob: true }, {}, false],
    ["outside of a Slurm job", { slurmJob: false }, {}, true],
    ["nobody inside of one", { slurmJob: false }, IN_JOB, false],
    ["where all that it asks for holds", { user: "alice", group: "users", uid: 2001 }, {}, true],
    ["not where one part does not hold", { user: "alice", group: "wheel" }, {}, false],
  ];
  for (const [name, match, who, matches] of cases) {
    test(name, () => expect(decidedBy(match, who)).toBe(matches ? "the rule" : null));
  }
});

describe("decide()", () => {
  const rules = [
    { name: "first", match: { user: "alice", group: "wheel" }, role: role("First") },
    { name: "second", match: { user: "alice" }, role: "none" },
    { name: "third", match: { group: "users" }, role: role("Third") },
  ];
  test("lets the first rule that matches decide", () => {
    expect(decide({ rules }, { groups: ["wheel", "users"] })).toMatchObject({ rule: "first" });
    expect(decide({ rules }, { user: "bob" })).toMatchObject({ rule: "third" });
  });
  test("refuses by a rule with the role none, whatever stands below and by default", () => {
    expect(decide({ role: role("Default"), rules })).toMatchObject({ kind: "refuse", rule: "second" });
  });
  test("refuses whose cgroup is not known where a rule asks for it: no default for unknown", () => {
    const jobs = [{ name: "jobs", match: { slurmJob: true }, role: role("Batch") }];
    expect(decide({ role: role("Default"), rules: jobs }, { cgroup: null })).toMatchObject({
      kind: "refuse",
      rule: "jobs",
    });
  });
  test("refuses who may be in a job that cannot be known, where a rule asks for one: neither yes nor no", () => {
    const jobUnknown = "this node's Slurm is too old";
    for (const slurmJob of [true, false]) {
      const jobs = [{ name: "jobs", match: { slurmJob }, role: role("Batch") }];
      const config = { role: role("Default"), rules: jobs };
      expect(decide(config, { jobUnknown })).toEqual({
        kind: "refuse",
        rule: "jobs",
        reason: `rule "jobs" asks for the Slurm job, which cannot be told: ${jobUnknown}`,
      });
      // A rule for others, and one by cgroup, which is known, are as ever.
      const others = [{ ...jobs[0], name: "others", match: { user: "bob", slurmJob } }];
      expect(decide({ ...config, rules: others }, { jobUnknown })).toMatchObject({
        kind: "role",
        rule: null,
      });
      const byCgroup = [{ ...jobs[0], name: "cgroup", match: { cgroup: "/user.slice/**" } }];
      expect(decide({ ...config, rules: byCgroup }, { jobUnknown })).toMatchObject({
        rule: "cgroup",
        kind: "role",
      });
    }
  });
  test("and not where the rule cannot match for another reason", () => {
    const jobs = [{ name: "jobs", match: { user: "bob", slurmJob: true }, role: role("Batch") }];
    expect(decide({ role: role("Default"), rules: jobs }, { cgroup: null })).toMatchObject({
      kind: "role",
      rule: null,
    });
  });
  test("makes the whole request of the rule, its own settings before the general ones", () => {
    const decision = decide(
      {
        sessionName: "general-{user}",
        durationSeconds: 3600,
        rules: [
          {
            name: "all of it",
            role: role("R"),
            sessionName: "{user}.{uid}@{instanceId}",
            durationSeconds: 900,
            sourceIdentity: "{user}",
            tags: { team: "data", job: "{slurmJobId}", a: 1 },
            transitiveTagKeys: ["team", "job"],
            policyArns: ["arn:aws:iam::aws:policy/ReadOnlyAccess"],
            policy: { Version: "2012-10-17", Statement: [] },
            externalId: "x-1",
          },
        ],
      },
      IN_JOB,
    );
    expect(decision).toMatchObject({
      request: {
        roleArn: role("R"),
        sessionName: "alice.2001@i-0abc",
        durationSeconds: 900,
        sourceIdentity: "alice",
        tags: [
          ["a", "1"],
          ["job", "12"],
          ["team", "data"],
        ],
        transitiveTagKeys: ["job", "team"],
        policyArns: ["arn:aws:iam::aws:policy/ReadOnlyAccess"],
        policy: '{"Version":"2012-10-17","Statement":[]}',
        externalId: "x-1",
      },
    });
  });
  test("outside of a job has no tag of the job's id, not an empty one, nor a transitive key of it", () => {
    const decision = decide({
      rules: [
        {
          name: "jobs",
          role: role("R"),
          sessionName: "{user}-{slurmJobId}",
          tags: { team: "data", job: "{slurmJobId}", place: "job {slurmJobId}" },
          transitiveTagKeys: ["team", "job"],
        },
      ],
    });
    expect(decision).toMatchObject({
      request: { sessionName: "alice-none", tags: [["team", "data"]], transitiveTagKeys: ["team"] },
    });
  });
  test("makes equal requests of equal tags, in whatever order they stand", () => {
    const tagged = (tags: object) => decide({ rules: [{ name: "r", role: role("R"), tags }] });
    expect(tagged({ a: "1", b: "2" })).toEqual(tagged({ b: "2", a: "1" }));
  });
});

describe("needs says what the rules look at:", () => {
  const needs = (config: object) => compileRules(parseConfig(JSON.stringify(config), "test.yaml")).needs;
  test("nothing but names, where nothing else is asked for", () => {
    expect(needs({ role: role("R"), sessionName: "{user}" })).toEqual({
      groups: false,
      cgroup: false,
      instanceId: false,
      region: false,
    });
  });
  test("the instance id, by default", () => {
    expect(needs({ role: role("R") }).instanceId).toBe(true);
  });
  test("groups and cgroups by a match, and cgroups by a template that names the job", () => {
    const rule = (more: object) => ({
      rules: [{ name: "r", role: role("R"), sessionName: "{user}", ...more }],
    });
    expect(needs(rule({ match: { group: "g" } })).groups).toBe(true);
    expect(needs(rule({ match: { cgroup: "/a" } })).cgroup).toBe(true);
    expect(needs(rule({ match: { slurmJob: false } })).cgroup).toBe(true);
    expect(needs(rule({ tags: { job: "{slurmJobId}" } })).cgroup).toBe(true);
    expect(needs(rule({ sessionName: "{user}-{slurmJobId}" })).cgroup).toBe(true);
  });
});

describe("who is not known", () => {
  const DEFAULT = { role: role("Default") };
  const none = { user: null, groups: [] };
  const away = { ...none, userUnavailable: "sss (unavailable)" };
  const byUser = { name: "bobs", match: { user: "bob" }, role: role("Bob") };
  const byGroup = { name: "blocked", match: { group: "blocked" }, role: "none" };
  const byUid = { name: "guests", match: { uid: ["60000-64999"] }, role: "none" };
  type Rules = readonly object[];

  const cases: [what: string, rules: Rules, who: Partial<Identity>, more: object, outcome: string][] = [
    ["a uid without a name, with no rule", [], none, {}, "Default"],
    ["a uid without a name, with rules by uid alone", [byUid], none, {}, "Default"],
    ["a uid without a name, with a rule by user", [byUser], none, {}, "refused"],
    ["a uid without a name, with a rule by group", [byGroup], none, {}, "refused"],
    [
      "a uid without a name, with nameless: default",
      [byUser, byGroup],
      none,
      { nameless: "default" },
      "Default",
    ],
    [
      "a uid without a name, by a rule by uid before them",
      [byUid, byGroup],
      { ...none, uid: 60_001 },
      {},
      "refused",
    ],
    [
      "a uid without a name, by a role by uid before them",
      [{ name: "x", match: { uid: 4711 }, role: role("X") }, byGroup],
      { ...none, uid: 4711 },
      {},
      "X",
    ],
    [
      "a uid without a name, where another part does not hold",
      [{ name: "x", match: { group: "g", uid: 7 }, role: role("X") }],
      none,
      {},
      "Default",
    ],
    [
      "a container, which has no name and no uid",
      [byUser, byGroup],
      { ...none, uid: null, container: "172.17.0.2" },
      {},
      "Default",
    ],
    ["a name that cannot be told, with a rule by user", [byUser], away, {}, "later"],
    ["a name that cannot be told, with a rule by group", [byGroup], away, {}, "later"],
    ["a name that cannot be told, with nameless: default", [byGroup], away, { nameless: "default" }, "later"],
    ["a name that cannot be told, and a session name with {user}", [], away, {}, "later"],
    [
      "a name that cannot be told, and nothing that needs it",
      [byUid],
      away,
      { sessionName: "x{uid}" },
      "Default",
    ],
    [
      "groups that cannot be told, with a rule by group",
      [byGroup],
      { groupsUnavailable: "sss" },
      {},
      "later",
    ],
    [
      "groups that cannot be told, but the one that is asked for is",
      [byGroup],
      { groups: ["blocked"], groupsUnavailable: "sss" },
      {},
      "refused",
    ],
    [
      "groups that cannot be told, with rules by user alone",
      [byUser],
      { groupsUnavailable: "sss" },
      {},
      "Default",
    ],
  ];
  for (const [what, rules, who, more, outcome] of cases) {
    test(`${what}: ${outcome}`, () => {
      const decision = decide({ ...DEFAULT, ...more, rules }, who);
      const found =
        decision.kind === "role"
          ? decision.roleArn.replace(/^.*\//, "")
          : decision.passing === true
            ? "later"
            : "refused";
      expect(found).toBe(outcome);
    });
  }

  test("it is said what is asked for, and why it is not known", () => {
    expect(decide({ ...DEFAULT, rules: [byGroup] }, none)).toMatchObject({
      rule: "blocked",
      reason:
        'rule "blocked" asks for groups, and the uid has no name ("nameless: default" in the configuration passes it over)',
    });
    expect(decide({ ...DEFAULT, rules: [byGroup] }, away)).toMatchObject({
      reason: 'rule "blocked" asks for the user\'s name, which cannot be told for now: sss (unavailable)',
    });
  });

  test("a rule by uid counts for a subordinate uid by its owner's, and by its own", () => {
    const who = { uid: 300_005, subordinate: true, ownerUid: 2001 };
    for (const uid of [2001, 300_005]) {
      const rules = [{ name: "one", match: { uid }, role: "none" }];
      expect(decide({ ...DEFAULT, rules }, who)).toMatchObject({ kind: "refuse", rule: "one" });
    }
    const rules = [{ name: "another", match: { uid: 2002 }, role: "none" }];
    expect(decide({ ...DEFAULT, rules }, who)).toMatchObject({ kind: "role" });
  });

  test("a cgroup that is not known is refused where a text of the session needs it", () => {
    const texts: [key: string, value: unknown][] = [
      ["sessionName", "{user}-{slurmJobId}"],
      ["tags", { job: "{slurmJobId}" }],
    ];
    for (const [key, value] of texts) {
      const rules = [{ name: "all", match: {}, role: role("R"), [key]: value }];
      expect(decide({ rules }, { cgroup: null })).toMatchObject({ kind: "refuse", rule: "all" });
      expect(decide({ rules }, {})).toMatchObject({ kind: "role" });
    }
    const own = { ...DEFAULT, sessionName: "{slurmJobId}@x" };
    expect(decide(own, { cgroup: null })).toMatchObject({
      kind: "refuse",
      reason: "the default role has a text with {slurmJobId}, which asks for the cgroup, which is not known",
    });
    expect(decide(DEFAULT, { cgroup: null })).toMatchObject({ kind: "role" });
    expect(decide(own, { jobUnknown: "WHY" })).toMatchObject({
      kind: "refuse",
      reason:
        "the default role has a text with {slurmJobId}, which asks for the Slurm job, which cannot be told: WHY",
    });
    expect(decide(DEFAULT, { jobUnknown: "WHY" })).toMatchObject({ kind: "role" });
  });
});

describe("the placeholders of the node, the group and the job's user", () => {
  const requestOf = (who: Partial<Identity>, texts: object) => {
    const rule = { name: "r", match: { group: ["ops", "data-eng"] }, role: role("R"), ...texts };
    const config = parseConfig(JSON.stringify({ cluster: "hpc-1", rules: [rule] }), "test.yaml");
    const decision = compileRules(config, { hostname: "ip-10-0-0-1" }).decide(identity(who), "i-0abc");
    return decision.kind === "role" ? decision.request : decision.reason;
  };
  test("have their values", () => {
    expect(
      requestOf(
        { groups: ["users", "data-eng"], ...IN_JOB },
        { sessionName: "{cluster}.{hostname}", sourceIdentity: "{slurmUser}", tags: { team: "{group}" } },
      ),
    ).toMatchObject({
      sessionName: "hpc-1.ip-10-0-0-1",
      sourceIdentity: "alice",
      tags: [["team", "data-eng"]],
    });
  });
  test("{region} is the node's, in each text, and refuses where nobody tells it", () => {
    const region = {
      sessionName: "{user}.{region}",
      sourceIdentity: "{region}/{user}",
      tags: { at: "{region}" },
    };
    const config = {
      role: role("Login"),
      rules: [{ name: "r", match: { user: "alice" }, role: role("R"), ...region }],
    };
    const rules = compileRules(parseConfig(JSON.stringify(config), "test.yaml"));
    expect(rules.needs.region).toBe(true);
    expect(rules.decide(identity(), null, "eu-central-1")).toMatchObject({
      request: {
        sessionName: "alice.eu-central-1",
        sourceIdentity: expect.stringMatching(/^eu-central-1_alice-[0-9a-f]{16}$/),
        tags: [["at", "eu-central-1"]],
      },
    });
    for (const text of ["sessionName", "sourceIdentity"] as const) {
      const alone = {
        ...config,
        rules: [{ ...config.rules[0], tags: {}, sourceIdentity: null, sessionName: "x1" }],
      };
      const rule = { ...alone.rules[0], [text]: "{region}" };
      const one = compileRules(parseConfig(JSON.stringify({ ...alone, rules: [rule] }), "test.yaml"));
      expect(one.decide(identity(), null)).toEqual({
        kind: "refuse",
        rule: "r",
        reason:
          'rule "r" has a text with {region}, which asks for the node\'s region, which its metadata service does not tell',
      });
    }
    // Whom another rule decides over is not refused.
    expect(rules.decide(identity({ user: "bob" }), null)).toMatchObject({ kind: "role", rule: null });
  });
  test("{group} is the first of the rule's, whatever the order of the caller's", () => {
    const tags = { team: "{group}" };
    expect(requestOf({ groups: ["data-eng", "ops"] }, { tags })).toMatchObject({ tags: [["team", "ops"]] });
  });
  test("{group} refuses for now where it cannot be told whether the caller is in one that comes before", () => {
    const name = { sessionName: "{group}" };
    const refused = requestOf({ groups: ["data-eng"], groupsUnavailable: "sss (unavailable)" }, name);
    expect(refused).toContain("{group}, which asks for groups, not all of which can be told for now");
    expect(requestOf({ groups: ["ops"], groupsUnavailable: "sss (unavailable)" }, name)).toMatchObject({
      sessionName: "ops",
    });
    expect(
      requestOf({ groups: ["data-eng"], groupsUnavailable: "sss (unavailable)" }, { sessionName: "x1" }),
    ).toMatchObject({
      sessionName: "x1",
    });
  });
  test("{slurmUser} of an account called none is not what stands for no job", () => {
    const of = (user: string) =>
      requestOf({ groups: ["ops"], user, slurmJobId: "7" }, { sessionName: "{slurmUser}" });
    const names = ["none", "user:none", "alice"].map(
      (user) => (of(user) as { sessionName: string }).sessionName,
    );
    expect(names[2]).toBe("alice");
    expect(new Set([...names, "none"]).size).toBe(4);
  });
  test("{slurmUser} outside of a job is none, and its tag is left out", () => {
    expect(
      requestOf({ groups: ["ops"] }, { sessionName: "{slurmUser}", tags: { of: "{slurmUser}" } }),
    ).toMatchObject({ sessionName: "none", tags: [] });
  });
  test("{slurmUser} refuses where the cgroup, or the name, is not known", () => {
    expect(requestOf({ groups: ["ops"], cgroup: null }, { sessionName: "{slurmUser}" })).toContain(
      "{slurmUser}, which asks for the cgroup",
    );
    expect(
      requestOf(
        { groups: ["ops"], user: null, userUnavailable: "SSSD is away" },
        { sourceIdentity: "{slurmUser}" },
      ),
    ).toContain("cannot be told for now");
  });
});
