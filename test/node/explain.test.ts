import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mustExec } from "../support/node.ts";
import { eventually, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

const ROOT = { user: "root" } as const;
const role = (name: string) => `arn:aws:iam::842413447717:role/${name}`;

/** A group's name, as whoever makes groups in a directory may choose it: clears the screen, and turns the direction of the text. */
const HOSTILE = "\u001b[2J\u009b31m\u202egroup";

describeAsRoot("explain, whoami and iam", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode(
      {
        users: [
          { name: "alice", uid: 2001, groups: ["data-eng"], subordinate: [300_000, 1_000] },
          { name: "ldap", uid: 300_005 },
          { name: "bob", uid: 2002 },
          { name: "guest", uid: 60_001 },
          { name: "ops", uid: 2009 },
          { name: "mallory", uid: 2010, groups: [HOSTILE] },
        ],
      },
      {
        exempt: ["root", "ops"],
        rules: [
          { name: "guests", match: { uid: ["60000-60999"] }, role: "none" },
          {
            name: "jobs",
            match: { user: "bob", slurmJob: true },
            role: role("Batch"),
            tags: { job: "{slurmJobId}" },
          },
          {
            name: "data engineers",
            match: { group: "data-eng" },
            role: role("DataEng"),
            sourceIdentity: "{user}",
          },
        ],
      },
    );
  });
  afterAll(() => proxied?.node.stop());

  /** The metadata service has a second to tell the instance id, which a busy machine may take: then it is asked again. */
  const explain = async (...args: string[]) => {
    let said = "";
    await eventually("the instance id is told", async () => {
      said = await mustExec(proxied.node, ROOT, ["imdsproxy", "explain", "--json", ...args]);
      return !said.includes("i-INSTANCE");
    });
    return JSON.parse(said);
  };
  const iam = async (...args: string[]) =>
    JSON.parse(await mustExec(proxied.node, ROOT, ["imdsproxy", "iam", ...args]));

  test("a rule by group, with what STS will be asked", async () => {
    expect(await explain("alice")).toMatchObject({
      exempt: false,
      identity: { uid: 2001, groups: ["alice", "data-eng"] },
      decision: { rule: "data engineers", roleArn: role("DataEng"), request: { sourceIdentity: "alice" } },
    });
  });
  test("a name from the account database is nothing that a terminal obeys, in text and in JSON", async () => {
    for (const argv of [["explain", "mallory"], ["whoami"]]) {
      for (const more of [[], ["--json"]]) {
        const user = argv[0] === "whoami" ? "mallory" : "root";
        const { stdout } = await proxied.node.exec({ user, argv: ["imdsproxy", ...argv, ...more] });
        expect(stdout).toContain("\\u001b[2J\\u009b31m\\u202egroup");
        expect(stdout).not.toMatch(/[\u001b\u009b\u202e]/);
      }
    }
  });
  test("a refusal by uid, by the uid itself", async () => {
    expect(await explain("60001")).toMatchObject({
      identity: { user: "guest" },
      decision: { kind: "refuse", rule: "guests" },
    });
  });
  test("the default role, and inside a Slurm job another", async () => {
    expect(await explain("bob")).toMatchObject({
      decision: { rule: null, roleArn: role("ImdsProxyTestRole") },
    });
    expect(await explain("bob", "--slurm-job", "17")).toMatchObject({
      decision: { rule: "jobs", request: { tags: [["job", "17"]] } },
    });
  });
  test("an exempt user and root keep the instance role", async () => {
    expect(await explain("ops")).toMatchObject({ exempt: true, decision: null });
    expect(await explain("root")).toMatchObject({ exempt: true, decision: null });
  });
  test("an account that is not there: exit 2 and what to name", async () => {
    const { exitCode, stderr } = await proxied.node.exec({
      ...ROOT,
      argv: ["imdsproxy", "explain", "nobody-here"],
    });
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining('no account "nobody-here"')]);
  });

  test("a subordinate uid gets what its owner gets", async () => {
    expect(await explain("300001")).toMatchObject({
      identity: { user: "alice", subordinate: true },
      decision: { rule: "data engineers" },
    });
  });
  test("an account in another's range of subordinate uids is refused, as the proxy refuses it", async () => {
    const { exitCode, stderr } = await proxied.node.exec({ ...ROOT, argv: ["imdsproxy", "explain", "ldap"] });
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining("a subordinate uid of alice")]);
    expect((await proxied.node.exec({ user: "ldap", argv: ["imdsproxy", "whoami"] })).exitCode).toBe(1);
  });

  describe("says the same as whoami says through the redirect", () => {
    for (const user of ["alice", "guest"]) {
      test(user, async () => {
        const { stdout, exitCode } = await proxied.node.exec({
          user,
          argv: ["imdsproxy", "whoami", "--json"],
        });
        const seen = JSON.parse(stdout);
        const { identity, decision } = await explain(user);
        expect(seen).toMatchObject({
          user,
          uid: identity.uid,
          groups: identity.groups,
          rule: decision.rule,
          reason: decision.reason,
        });
        // A refusal is not healthy for who asks.
        expect([seen.role, exitCode]).toEqual(decision.kind === "role" ? [decision.roleArn, 0] : [null, 1]);
      });
    }
    test("a uid without a name is refused where a rule names groups, and both say why", async () => {
      const { stdout, exitCode } = await proxied.node.exec({
        uid: 4711,
        argv: ["imdsproxy", "whoami", "--json"],
      });
      const seen = JSON.parse(stdout);
      const { decision } = await explain("4711");
      expect([seen.user, seen.uid, seen.role, exitCode]).toEqual([null, 4711, null, 1]);
      expect(seen.reason).toContain('rule "data engineers" asks for groups, and the uid has no name');
      expect(decision).toMatchObject({ kind: "refuse", rule: "data engineers", reason: seen.reason });
    });
  });

  test("iam trust-policy: one statement for each role, with the actions that its rules need", async () => {
    const policies = await iam("trust-policy", "--json", "--instance-role-arn", role("Node"));
    expect(Object.keys(policies)).toEqual([role("ImdsProxyTestRole"), role("Batch"), role("DataEng")]);
    const [statement] = policies[role("Batch")].Statement;
    expect(statement).toEqual({
      Effect: "Allow",
      Principal: { AWS: role("Node") },
      Action: ["sts:AssumeRole", "sts:TagSession"],
      // The tag is left out outside of a job.
      Condition: {
        StringLikeIfExists: { "aws:RequestTag/job": "*" },
        "ForAllValues:StringEquals": { "aws:TagKeys": ["job"] },
      },
    });
  });
  test("iam trust-policy asks the metadata service for the node's role, as root alone", async () => {
    const first = async () =>
      (Object.values(await iam("trust-policy", "--json")) as { Statement: object[] }[])[0];
    let policy = await first();
    await eventually("the node's role is told", async () => {
      if (!JSON.stringify(policy).includes("ROLE-OF-THIS-NODE")) return true;
      policy = await first();
      return false;
    });
    expect(policy?.Statement[0]).toMatchObject({
      Principal: { AWS: role("MySageMakerClusterInstanceRole") },
    });
    const alice = await proxied.node.exec({
      user: "alice",
      argv: ["imdsproxy", "iam", "trust-policy", "--json"],
    });
    expect(alice.stdout).toContain("ROLE-OF-THIS-NODE");
    expect(alice.stdout).not.toContain("MySageMakerClusterInstanceRole");
    expect(alice.stderr).toContain("run it as root on the node");
  });
  test("what stands for something that was not asked is marked; the instance id is the node's own", async () => {
    const alice = await explain("alice");
    expect(alice.assumptions).toEqual(["the cgroup is that of a login; --cgroup PATH names another"]);
    const job = await explain("bob", "--slurm-job", "12");
    expect(job.assumptions[0]).toContain("one that Slurm would make");
    expect(job.decision.request.sessionName).toBe("bob@i-0123456789abcdef0");
    expect((await explain("bob", "--cgroup", "/system.slice")).assumptions).toEqual([]);
    const alone = await proxied.node.exec({
      ...ROOT,
      argv: ["unshare", "--net", "imdsproxy", "explain", "bob", "--cgroup", "/x"],
    });
    expect(alone.stdout).toContain("i-INSTANCE stands for the node's instance id");
  });
  test("iam permissions-policy: every role of the configuration", async () => {
    const { Statement } = await iam("permissions-policy");
    expect(Statement.map(({ Resource }: { Resource: string }) => Resource)).toEqual([
      role("ImdsProxyTestRole"),
      role("Batch"),
      role("DataEng"),
    ]);
  });

  test("a Slurm without cgroup v2 (before 22.05): explain, config check and setup say so, and a rule for jobs refuses", async () => {
    const { node } = proxied;
    const known = "this node has Slurm 21.08.5, whose jobs have no cgroup v2: no job is known";
    await mustExec(node, ROOT, ["sh", "-euc", "mount -t tmpfs none /usr/local/sbin; mkdir -p /etc/slurm"]);
    node.write("/usr/local/sbin/slurmd", "#!/bin/sh\necho slurm 21.08.5\n", 0o755);
    node.write("/etc/slurm/slurm.conf", "ClusterName=c\n");
    const reason = expect.stringContaining(
      `rule "jobs" asks for the Slurm job, which cannot be told: ${known}`,
    );
    expect(await explain("bob")).toMatchObject({
      warnings: [expect.stringContaining(known)],
      decision: { kind: "refuse", rule: "jobs", reason },
    });
    expect((await explain("alice")).decision).toMatchObject({ rule: "data engineers", kind: "role" });
    const config = "/etc/imdsproxy/config.yaml";
    for (const argv of [
      ["config", "check", config],
      ["setup", "--dry-run", "--config", config],
    ]) {
      const { stdout, stderr } = await node.exec({ ...ROOT, argv: ["imdsproxy", ...argv] });
      expect([argv[0], stdout + stderr]).toEqual([argv[0], expect.stringContaining(known)]);
    }
    // The proxy knows it from its next reload on: no wider role than the rule's, and nothing changes for whom it does not name.
    const whoami = async (user: string) =>
      JSON.parse((await node.exec({ user, argv: ["imdsproxy", "whoami", "--json"] })).stdout || "{}");
    expect(await whoami("bob")).toMatchObject({ role: role("ImdsProxyTestRole") });
    process.kill(proxied.proxy.pid, "SIGHUP");
    await eventually("bob is refused", async () => (await whoami("bob")).role === null);
    expect(await whoami("bob")).toMatchObject({ role: null, rule: "jobs", reason });
    expect(await whoami("alice")).toMatchObject({ role: role("DataEng") });
  });
});
