import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { TrustStatement } from "../../src/demo/sts/trust.ts";
import type { AuditLine } from "../support/audited.ts";
import { mustExec } from "../support/node.ts";
import {
  credentialsOf,
  eventually,
  givenCredentials,
  type ProxiedNode,
  sdkArn,
  startProxiedNode,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

const ROOT = { user: "root" } as const;
const ANN = { user: "ann" } as const;
const BEN = { user: "ben" } as const;
const EVE = { user: "eve" } as const;
const MAX = { user: "max" } as const;
const NODE_ROLE = "arn:aws:iam::842413447717:role/MySageMakerClusterInstanceRole";
const BASE = "arn:aws:iam::842413447717:role/Lake";
const policy = (name: string) => `arn:aws:iam::842413447717:policy/${name}`;
const many = (name: string, count: number) => Array.from({ length: count }, (_, i) => policy(`${name}${i}`));
const DENY_ALL = { Version: "2012-10-17", Statement: [{ Effect: "Deny", Action: "*", Resource: "*" }] };

const LISTING = {
  Version: "2012-10-17",
  Statement: [{ Effect: "Allow", Action: "s3:List*", Resource: "*" }],
};
const NARROW = {
  name: "narrow",
  match: { user: "pat" },
  role: "arn:aws:iam::842413447717:role/Narrow",
  sessionName: "{user}.{region}",
  policyArns: [policy("Read")],
  policy: LISTING,
};
const LAKE = {
  name: "lake",
  role: BASE,
  sessionName: "{user}.{region}",
  sourceIdentity: "{user}@{region}",
  tags: { region: "{region}" },
  grant: "union",
  grants: [
    { name: "readers", match: { group: "data-eng" }, policyArns: [policy("Read"), policy("List")] },
    { name: "models", match: { group: ["ml", "ai"] }, policyArns: [policy("Models"), policy("List")] },
    { name: "six", match: { group: "six" }, policyArns: many("six", 6) },
    { name: "five", match: { group: "five" }, policyArns: many("five", 5) },
    { name: "admins", match: { group: "admins" }, policyArns: [policy("Admin")] },
  ],
};
const RULES = [NARROW, LAKE];

describeAsRoot("grant: union on a node", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode(
      {
        users: [
          { name: "ann", uid: 2001, groups: ["ml", "data-eng", "domain admins"] },
          { name: "ben", uid: 2002, groups: ["ai"] },
          { name: "eve", uid: 2003 },
          { name: "pat", uid: 2005 },
          { name: "max", uid: 2004, groups: ["six", "five"] },
        ],
      },
      { role: null, rules: RULES },
      // STS knows the trust policy that `iam trust-policy` prints, and no other.
      async (node) => {
        node.write("/run/lake.yaml", JSON.stringify({ rules: RULES }));
        const printed = await mustExec(node, ROOT, [
          "/run/bin/imdsproxy",
          ...[
            "iam",
            "trust-policy",
            "--config",
            "/run/lake.yaml",
            "--instance-role-arn",
            NODE_ROLE,
            "--json",
          ],
        ]);
        const found = JSON.parse(printed) as Record<string, { Statement: TrustStatement[] }>;
        const roles = Object.entries(found).map(
          ([role, { Statement }]) => [role, { trusts: [], statements: Statement }] as const,
        );
        expect(roles).toHaveLength(2);
        await node.sts.set({ roles: Object.fromEntries(roles) });
      },
    );
  });
  afterAll(() => proxied?.node.stop());

  /** What STS was asked for by this user's name. */
  async function asked(user: string) {
    const log = await proxied.node.sts.log();
    return log.filter(
      ({ action, parameters }) =>
        action === "AssumeRole" && parameters["RoleSessionName"] === `${user}.us-west-2`,
    );
  }
  const policiesIn = (parameters: Readonly<Record<string, string>> | undefined) =>
    Object.entries(parameters ?? {})
      .filter(([key]) => key.startsWith("PolicyArns."))
      .map(([, arn]) => arn);
  const lines = () =>
    proxied.proxy
      .output()
      .split("\n")
      .filter((line) => line.includes('"decision":'))
      .map(
        (line) =>
          JSON.parse(line) as AuditLine & { grants?: string[]; policyArns?: string[]; reason: string },
      );
  const imdsproxy = (who: { user: string }, ...argv: string[]) =>
    mustExec(proxied.node, who, ["/run/bin/imdsproxy", ...argv]);

  test("a user of two groups is the base role with the policies of both, to a real SDK; one session however often", async () => {
    const { node } = proxied;
    for (let time = 0; time < 3; time++)
      expect(await sdkArn(node, ANN)).toBe("arn:aws:sts::842413447717:assumed-role/Lake/ann.us-west-2");
    const [one, ...more] = await asked("ann");
    expect(more).toEqual([]);
    expect(one).toMatchObject({ status: 200, code: null });
    expect(policiesIn(one?.parameters)).toEqual([policy("List"), policy("Models"), policy("Read")]);
    expect(one?.parameters).toMatchObject({
      SourceIdentity: "ann@us-west-2",
      "Tags.member.1.Key": "region",
      "Tags.member.1.Value": "us-west-2",
    });
    expect(one?.parameters).not.toHaveProperty("Policy");
  });
  test("a user of one group has that one's alone", async () => {
    expect(await sdkArn(proxied.node, BEN)).toEndWith("/ben.us-west-2");
    const [one] = await asked("ben");
    expect(policiesIn(one?.parameters)).toEqual([policy("List"), policy("Models")]);
  });
  test('a user of the group "domain admins" has nothing of the group "admins"', async () => {
    await sdkArn(proxied.node, ANN);
    expect(policiesIn((await asked("ann"))[0]?.parameters)).not.toContain(policy("Admin"));
    expect(JSON.parse(await imdsproxy(ANN, "whoami", "--json")).groups).toContain("domain admins");
  });
  test("the session policies of an ordinary rule reach STS as well, by ARN and inline", async () => {
    expect(await sdkArn(proxied.node, { user: "pat" })).toEndWith("/pat.us-west-2");
    const [one] = await asked("pat");
    expect(policiesIn(one?.parameters)).toEqual([policy("Read")]);
    expect(JSON.parse(one?.parameters["Policy"] ?? "{}")).toEqual(LISTING);
  });
  test("the proxy is to be asked at loopback alone: nobody on the network can", async () => {
    const found = await mustExec(proxied.node, ROOT, ["ss", "-Hltn", "sport = :254"]);
    const addresses = found
      .trim()
      .split("\n")
      .map((line) => line.split(/\s+/)[3] ?? "");
    expect(addresses.length).toBeGreaterThan(0);
    for (const address of addresses) expect(["127.0.0.1:254", "[::1]:254"]).toContain(address);
  });
  test("a user of none is denied everything, not given the base role", async () => {
    const { node } = proxied;
    const answer = JSON.parse((await givenCredentials(node, EVE)).body) as Record<string, string>;
    const [one] = await asked("eve");
    expect(policiesIn(one?.parameters)).toEqual([]);
    expect(JSON.parse(one?.parameters["Policy"] ?? "{}")).toEqual(DENY_ALL);
    // Who she is she is told; to do anything by it is denied.
    expect(await sdkArn(node, EVE)).toEndWith("/eve.us-west-2");
    const call = (action: string) =>
      mustExec(node, EVE, [
        ...["curl", "--silent", "--aws-sigv4", "aws:amz:us-west-2:sts"],
        ...["--user", `${answer["AccessKeyId"]}:${answer["SecretAccessKey"]}`],
        ...["-H", `X-Amz-Security-Token: ${answer["Token"]}`],
        ...["--data", `Version=2011-06-15&Action=${action}`, node.stsEndpoint],
      ]);
    expect(await call(`AssumeRole&RoleSessionName=eve&RoleArn=${encodeURIComponent(BASE)}`)).toContain(
      "with an explicit deny in a session policy",
    );
  });
  test("a user whose grants are eleven policies is refused, and the refusal names both grants", async () => {
    expect((await credentialsOf(proxied.node, MAX)).status).toBe(404);
    expect(await asked("max")).toEqual([]);
    await eventually("it is in the audit", () => lines().some(({ user }) => user === "max"));
    const line = lines().find(({ user }) => user === "max");
    expect(line).toMatchObject({ decision: "refused", kind: "rule", rule: "lake" });
    expect(line?.reason).toContain('the grants "six" and "five" have 11 policies together, and STS takes 10');
    expect(line?.reason).toContain(`${policy("five4")} of "five" is one too many`);
  });

  test("the same is asked for at each renewal, and after a restart", async () => {
    const { node } = proxied;
    await sdkArn(node, ANN);
    const [first] = await asked("ann");
    // Clients are told an end one minute early: after a second the session is over, and another one is made.
    await node.sts.set({ sessionSeconds: 61 });
    try {
      await node.sts.clearLog();
      await proxied.proxy.stop();
      await proxied.restart();
      await eventually("there are three", async () => {
        await credentialsOf(node, ANN);
        return (await asked("ann")).length >= 3;
      });
      for (const { parameters } of await asked("ann")) expect(parameters).toEqual(first?.parameters ?? {});
    } finally {
      await node.sts.set({ sessionSeconds: null });
    }
  });

  describe("is told by", () => {
    test("the audit", async () => {
      await sdkArn(proxied.node, ANN);
      await givenCredentials(proxied.node, EVE);
      // Not the first line of either: a session of the test before, of which a second is left to hand out, can be over when it comes.
      const of = (name: string) =>
        lines().findLast(({ user, decision }) => user === name && decision === "granted");
      await eventually("both have a line", () => ["ann", "eve"].every((one) => of(one) !== undefined));
      expect(of("ann")).toMatchObject({
        decision: "granted",
        grants: ["readers", "models"],
        policyArns: [policy("List"), policy("Models"), policy("Read")],
      });
      expect(of("eve")).toMatchObject({ decision: "granted", grants: [] });
      expect(of("eve")?.reason).toContain("none of its grants: everything is denied");
    });
    test("whoami, explain and status", async () => {
      await sdkArn(proxied.node, ANN);
      await givenCredentials(proxied.node, EVE);
      expect(JSON.parse(await imdsproxy(ANN, "whoami", "--json"))).toMatchObject({
        grants: ["readers", "models"],
        policyArns: [policy("List"), policy("Models"), policy("Read")],
      });
      expect(await imdsproxy(EVE, "whoami")).toMatch(/^grants +none: everything is denied$/m);
      const explained = await imdsproxy(ROOT, "explain", "ann");
      expect(explained).toMatch(/^grants +readers, models$/m);
      expect(explained).toMatch(/^policy +arn:aws:iam::842413447717:policy\/Read$/m);
      expect(explained).toMatch(/^session name +ann\.(us-west-2|REGION)$/m);
      const status = await proxied.node.exec({ ...ROOT, argv: ["/run/bin/imdsproxy", "status", "--json"] });
      const { users } = JSON.parse(status.stdout) as { users: { rows: { user: string; grants: string }[] } };
      expect(Object.fromEntries(users.rows.map(({ user, grants }) => [user, grants]))).toMatchObject({
        ann: "readers, models",
        eve: "",
      });
    });
    test("config diff, with the policies that somebody loses and gains", async () => {
      const { node } = proxied;
      const changed = LAKE.grants.map((one) =>
        one.name === "models" ? { ...one, policyArns: [policy("Models2")] } : one,
      );
      const tests = [{ given: { user: "zoe", uid: 4711, groups: ["ai"] }, expect: { grants: ["models"] } }];
      node.write("/run/new.yaml", JSON.stringify({ rules: [NARROW, { ...LAKE, grants: changed }], tests }));
      const text = await imdsproxy(ROOT, "config", "diff", "/run/lake.yaml", "/run/new.yaml");
      expect(text).toMatch(
        /^ann .*\n {2}session differs in: policyArns\n {2}session policies no longer given: \S+policy\/Models\n {2}session policies then: \S+policy\/Models2$/m,
      );
      expect(text).not.toMatch(/^eve /m);
      // Somebody of the tests, whom the node does not know.
      expect(text).toMatch(/^"zoe" +a test .*\n {2}session differs in: policyArns$/m);
    });
  });
});
