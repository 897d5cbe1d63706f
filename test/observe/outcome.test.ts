import { describe, expect, test } from "bun:test";
import { parseConfig } from "../../src/config/load.ts";
import { outcomeText, prospects, shownOutcome } from "../../src/observe/outcome.ts";
import { named } from "./support.ts";

const ROLE = "arn:aws:iam::123456789012:role/path/Data";
const config = parseConfig(
  `
exempt: [root, agent, 990]
platform: ec2
containers: proxy
rules:
  - name: data
    match: { group: [data] }
    role: ${ROLE}
    externalId: hidden-id
  - name: jobs
    match: { slurmJob: true }
    role: ${ROLE}
`,
  "test",
);
const EXEMPT = new Map([
  [0, "root"],
  [500, "exempt"],
  [990, "exempt"],
  [980, "platform"],
  [970, "the proxy's own account"],
]);
const prospect = prospects(config, EXEMPT);
const kinds = (...callers: Parameters<typeof prospect>[0][]) =>
  callers.map((one) => prospect(one).outcome.kind);

describe("prospects()", () => {
  test("root, exempt users by name and uid, the platform's accounts and the service's are exempt", () => {
    expect(
      kinds(
        named("root", { uid: 0 }),
        named("agent", { uid: 500 }),
        named("x", { uid: 990 }),
        named("cwagent", { uid: 980 }),
        named("imdsproxy", { uid: 970 }),
        named("alice", { uid: 2001 }),
      ),
    ).toEqual(["exempt", "exempt", "exempt", "exempt", "exempt", "refused"]);
  });
  test("an account of a directory that bears the name of an exempt one is not exempt", () => {
    expect(kinds(named("agent", { uid: 2009 }))).toEqual(["refused"]);
    // A test of a configuration may give a name alone.
    expect(kinds({ ...named("agent"), uid: null })).toEqual(["exempt"]);
  });
  test("a role with its rule, by group and by the job of the cgroup", () => {
    expect(prospect(named("data")).outcome).toMatchObject({ kind: "role", role: ROLE, rule: "data" });
    const job = named("bob", { cgroup: "/system.slice/slurmstepd.scope/job_1/step_0" });
    expect(prospect(job).outcome).toMatchObject({ kind: "role", rule: "jobs" });
  });
  test("what would be 404: closed categories, and credentials for whom is refused; nothing for exempt users", () => {
    const asked = [
      ["meta-data/iam/security-credentials", 1],
      ["user-data", 1],
      ["meta-data/placement/region", 1],
    ] as const;
    expect(prospect(named("data", { categories: asked })).lost).toEqual(["user-data"]);
    expect(prospect(named("bob", { categories: asked })).lost).toEqual([
      "meta-data/iam/security-credentials",
      "user-data",
    ]);
    expect(prospect(named("root", { uid: 0, categories: asked })).lost).toEqual([]);
  });
  test("unknown where the name or the cgroup cannot be told, or there is no uid", () => {
    const away = {
      ...named("x"),
      account: { user: null, groups: [], subordinate: false, userUnavailable: "LDAP is away" },
    };
    expect(prospect(away).outcome).toMatchObject({
      kind: "unknown",
      why: expect.stringContaining("LDAP is away"),
    });
    expect(kinds({ ...named(null), uid: null })).toEqual(["unknown"]);
    // The cgroup is a part of the identity: without it, the proxy refuses.
    expect(prospect(named("bob", { cgroup: null })).outcome.kind).toBe("refused");
  });
  test("refused where two users can have the uid", () => {
    const both = {
      ...named("x"),
      account: { user: null, groups: [], subordinate: true, conflict: "two owners" },
    };
    expect(prospect(both).outcome).toMatchObject({ kind: "refused", reason: "two owners" });
  });
  test("bridged containers, by `containers`", () => {
    const bridged = { ...named(null, { uid: null, container: "172.17.0.2" }), cgroup: null };
    const by = (containers: string) =>
      prospects(parseConfig(`containers: ${containers}\nrole: ${ROLE}\n`, "test"), new Map())(bridged).outcome
        .kind;
    expect(["leave", "reject", "proxy"].map(by)).toEqual(["untouched", "refused", "role"]);
  });
  test("an external id is not shown", () => {
    expect(JSON.stringify(shownOutcome(prospect(named("data")).outcome))).not.toContain("hidden-id");
    expect(outcomeText(prospect(named("data")).outcome)).toBe("Data");
  });
});
