import { describe, expect, test } from "bun:test";
import { configSchema } from "../../src/config/schema.ts";
import { asksForJobs, configWarnings } from "../../src/config/warnings.ts";
import { nodeWarnings } from "../../src/service/node-warnings.ts";

const role = (name: string) => `arn:aws:iam::842413447717:role/${name}`;
const config = (rules: object[], more: object = {}) =>
  configSchema.parse({ role: role("Login"), rules, ...more });
const texts = (one: Parameters<typeof configWarnings>[0]) => configWarnings(one).map(({ text }) => text);
const refuseJobs = { name: "jobs", match: { user: "alice", slurmJob: true }, role: "none" };

describe("configWarnings()", () => {
  test("a rule that refuses in a job what the default gives outside of it", () => {
    const [warning, ...more] = texts(config([refuseJobs]));
    expect(warning).toContain('the rule "jobs" refuses inside of a Slurm job what the default role gives');
    expect(warning).toContain(role("Login"));
    expect(more).toEqual([]);
  });
  test("or what a rule below gives", () => {
    const below = { name: "alice", match: { user: ["bob", "alice"] }, role: role("Alice") };
    expect(texts(config([refuseJobs, below]))[0]).toContain('the rule "alice" gives');
  });
  test("nothing where the rule below is of somebody else, and there is no default", () => {
    const other = { name: "bob", match: { user: "bob" }, role: role("Bob") };
    expect(texts(config([refuseJobs, other], { role: null }))).toEqual([]);
  });
  test("nothing where a job gives more, or the rule below refuses as well", () => {
    expect(texts(config([{ ...refuseJobs, role: role("Job") }]))).toEqual([]);
    const everyone = config([refuseJobs, { name: "all", match: {}, role: "none" }], { role: null });
    expect(texts(everyone)).toEqual([]);
  });
});

describe("configWarnings() on what nobody gets and what two people share:", () => {
  test("a default role that the rules leave to nobody", () => {
    const all = { name: "all", match: {}, role: role("All") };
    expect(configWarnings(config([all]))).toEqual([
      { keys: ["role"], text: expect.stringContaining("nobody can get the default role") },
    ]);
    expect(texts(config([all], { role: null }))).toEqual([]);
  });
  test("two placeholders with nothing between them, in any text", () => {
    const rule = { name: "r", match: { user: "a" }, role: role("R"), tags: { who: "{user}{uid}" } };
    const [one, two, ...more] = configWarnings(config([rule], { sessionName: "{uid}{user}@x" }));
    expect(one).toEqual({ keys: ["sessionName"], text: expect.stringContaining("{uid}{user}") });
    expect(two).toMatchObject({ keys: ["rules", 0, "tags", "who"] });
    expect(more).toEqual([]);
    expect(texts(config([{ ...rule, tags: { who: "{user}.{uid}" } }]))).toEqual([]);
  });
});

describe("configWarnings() on what setup refuses:", () => {
  const warned = (more: object) =>
    configWarnings(config([], more)).map(({ keys, text }) => [keys[0], text.slice(0, 16)]);
  test("a port that users can take, a state directory elsewhere", () => {
    expect(warned({ listen: "127.0.0.1:2540", stateDirectory: "/tmp/x" })).toEqual([
      ["listen", "setup refuses it"],
      ["stateDirectory", "setup refuses it"],
    ]);
    expect(warned({ listen: "127.0.0.1:300", stateDirectory: "/var/lib/other" })).toEqual([]);
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
  test("an exempt user whom it does not know; never root, whom it knows, nor a uid", async () => {
    const has = async (_database: string, name: string) => name === "alice";
    const exempt = ["root", "alice", "1001", "alcie"];
    const [warning, ...more] = await nodeWarnings(config([], { exempt }), { has }, () => null);
    expect(warning).toContain('exempt names the user "alcie", whom this node does not know');
    expect(more).toEqual([]);
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
