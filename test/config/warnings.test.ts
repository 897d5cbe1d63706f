import { describe, expect, test } from "bun:test";
import { configSchema } from "../../src/config/schema.ts";
import { asksForJobs, configWarnings } from "../../src/config/warnings.ts";
import { nodeWarnings } from "../../src/service/node-warnings.ts";

const role = (name: string) => `arn:aws:iam::842413447717:role/${name}`;
const config = (rules: object[], more: object = {}) =>
  configSchema.parse({ role: role("Login"), rules, ...more });
const refuseJobs = { name: "jobs", match: { user: "alice", slurmJob: true }, role: "none" };

describe("configWarnings()", () => {
  test("a rule that refuses in a job what the default gives outside of it", () => {
    const [warning, ...more] = configWarnings(config([refuseJobs]));
    expect(warning).toContain('the rule "jobs" refuses inside of a Slurm job what the default role gives');
    expect(warning).toContain(role("Login"));
    expect(more).toEqual([]);
  });
  test("or what a rule below gives", () => {
    const below = { name: "alice", match: { user: ["bob", "alice"] }, role: role("Alice") };
    expect(configWarnings(config([refuseJobs, below]))[0]).toContain('the rule "alice" gives');
  });
  test("nothing where the rule below is of somebody else, and there is no default", () => {
    const other = { name: "bob", match: { user: "bob" }, role: role("Bob") };
    expect(configWarnings(config([refuseJobs, other], { role: null }))).toEqual([]);
  });
  test("nothing where a job gives more, or the rule below refuses as well", () => {
    expect(configWarnings(config([{ ...refuseJobs, role: role("Job") }]))).toEqual([]);
    expect(configWarnings(config([refuseJobs, { name: "all", match: {}, role: "none" }]))).toEqual([]);
  });
});

describe("asksForJobs()", () => {
  test("by a match or by a template", () => {
    expect(asksForJobs(config([refuseJobs]))).toBe(true);
    expect(
      asksForJobs(
        config([{ name: "t", match: { user: "a" }, role: role("T"), tags: { job: "{slurmJobId}" } }]),
      ),
    ).toBe(true);
    expect(asksForJobs(config([], { sessionName: "{user}-{slurmJobId}" }))).toBe(true);
    expect(asksForJobs(config([{ name: "t", match: { user: "a" }, role: role("T") }]))).toBe(false);
  });
});

describe("nodeWarnings()", () => {
  const rules = [
    { name: "team", match: { user: ["alice", "mallory"], group: ["data-eng", "gone"] }, role: role("T") },
  ];
  test("users and groups that the node does not know", async () => {
    const has = async (_database: string, name: string) => ["alice", "data-eng"].includes(name);
    const warnings = await nodeWarnings(config(rules), { has }, () => null);
    expect(warnings).toHaveLength(2);
    expect(warnings[0]).toContain(
      'names the user "mallory", whom this node does not know: getent passwd mallory',
    );
    expect(warnings[1]).toContain('names the group "gone"');
  });
  test("none where the directory cannot tell", async () => {
    expect(await nodeWarnings(config(rules), { has: async () => null }, () => null)).toEqual([]);
  });
  test("Slurm is looked at only where the rules ask for jobs", async () => {
    const has = async () => true;
    expect(await nodeWarnings(config(rules), { has }, () => "slurm")).toEqual([]);
    expect(await nodeWarnings(config([refuseJobs]), { has }, () => "slurm")).toEqual(["slurm"]);
  });
});
