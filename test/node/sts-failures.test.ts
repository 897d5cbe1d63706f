import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { awsCallerIdentity, IMDS4, TEST_ROLE } from "../support/node.ts";
import {
  assumed,
  credentialsOf,
  eventually,
  getWithToken,
  givenCredentials,
  sdkArn,
  startProxiedNode,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import type { StsFault } from "../support/stand-ins/sts.ts";

/** A user for each test: what the proxy remembers of one tells nothing of the next. */
const USERS = Array.from({ length: 24 }, (_, index) => ({ name: `user${index}`, uid: 3000 + index }));
let next = 0;
const someone = () => ({ user: USERS[next++ % USERS.length]?.name ?? "" });

const THROTTLED: StsFault = { kind: "error", status: 400, code: "Throttling", message: "Rate exceeded" };
const DENIED: StsFault = {
  kind: "error",
  status: 403,
  code: "AccessDenied",
  message: `User: arn:aws:sts::842413447717:assumed-role/X/Y is not authorized to perform: sts:AssumeRole on resource: ${TEST_ROLE}`,
};
const rolePath = "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole";

describeAsRoot("when STS fails", () => {
  let node: SimulatedNode;
  beforeAll(async () => {
    ({ node } = await startProxiedNode({ users: USERS }));
  });
  afterAll(() => node.stop());
  beforeEach(async () => {
    await node.sts.set({ fault: { kind: "none" }, delayMs: 0 });
    await node.sts.clearLog();
  });

  test("a denial is 200 with a Code that SDKs take for one, and no secret", async () => {
    const who = someone();
    await node.sts.set({ fault: DENIED });
    const { status, body } = await givenCredentials(node, who);
    expect(status).toBe(200);
    expect(JSON.parse(body)).toMatchObject({ Code: "AssumeRoleUnauthorizedAccess" });
    expect(Object.keys(JSON.parse(body))).not.toContain("SecretAccessKey");
    expect(body).not.toContain(node.secrets.marker);
  });

  test("a denial is remembered: ten asks make one AssumeRole", async () => {
    const who = someone();
    await node.sts.set({ fault: DENIED });
    for (let asks = 0; asks < 10; asks++) await getWithToken(node, who, rolePath);
    expect((await assumed(node)).filter((name) => name.startsWith(`${who.user}@`))).toHaveLength(1);
  });

  test("the AWS CLI ends with an error and without credentials on a denial", async () => {
    await node.sts.set({ fault: DENIED });
    const { exitCode, stdout, stderr } = await awsCallerIdentity(node, someone());
    expect(exitCode).not.toBe(0);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/Unable to locate credentials|credentials/);
  });

  const passing: [name: string, fault: StsFault][] = [
    ["throttles", THROTTLED],
    ["answers 500", { kind: "error", status: 500, code: "InternalFailure" }],
    ["answers with another's page", { kind: "body", status: 200, body: "<html>Login</html>" }],
    ["drops the connection", { kind: "drop" }],
    ["hangs", { kind: "hang" }],
  ];
  for (const [name, fault] of passing) {
    test(`a caller gets 503 while STS ${name}, and credentials when it is well again`, async () => {
      const who = someone();
      await node.sts.set({ fault });
      const answer = await getWithToken(node, who, rolePath);
      expect(answer.status).toBe(503);
      expect(answer.body).not.toContain(node.secrets.marker);
      // The role's name is known without STS: a list must not fail, else clients drop to "no role".
      expect((await getWithToken(node, who, "/latest/meta-data/iam/security-credentials/")).body).toBe(
        "ImdsProxyTestRole",
      );

      await node.sts.set({ fault: { kind: "none" } });
      await eventually(
        `${who.user} gets credentials`,
        async () => (await credentialsOf(node, who)).status === 200,
      );
      expect(await sdkArn(node, who)).toEndWith(`/${who.user}@i-0123456789abcdef0`);
    }, 240_000);
  }

  test("a throttled STS is not hammered: twenty asks make fewer requests than asks", async () => {
    const who = someone();
    await node.sts.set({ fault: THROTTLED });
    await Promise.all(Array.from({ length: 20 }, () => getWithToken(node, who, rolePath)));
    const made = (await assumed(node)).filter((name) => name.startsWith(`${who.user}@`)).length;
    expect(made).toBeGreaterThan(0);
    expect(made).toBeLessThan(10);
  });

  test("one user's hanging request holds nobody else up", async () => {
    const [slow, had] = [someone(), someone()];
    expect((await givenCredentials(node, had)).status).toBe(200);
    await node.sts.set({ fault: { kind: "hang" } });
    const waiting = getWithToken(node, slow, rolePath);
    const answer = await credentialsOf(node, had);
    expect(answer.status).toBe(200);
    expect((await waiting).status).toBe(503);
  });

  test("who has a session keeps it while STS is away", async () => {
    const who = someone();
    const first = JSON.parse((await givenCredentials(node, who)).body).AccessKeyId;
    await node.sts.set({ fault: { kind: "drop" } });
    expect(JSON.parse((await credentialsOf(node, who)).body).AccessKeyId).toBe(first);
  });

  test("the caller who leaves early spoils it for nobody", async () => {
    const who = someone();
    await node.sts.set({ delayMs: 2_000 });
    const asked = async () => (await assumed(node)).filter((name) => name.startsWith(`${who.user}@`));
    // As soon as STS was asked, not after a time: on a machine under load an answer may be there by then.
    const leaver = node.spawn({ ...who, argv: ["curl", "-sS", IMDS4 + rolePath], timeoutMs: 60_000 });
    await eventually("STS is asked", async () => (await asked()).length === 1);
    leaver.kill("SIGKILL");
    await leaver.done;
    await eventually("who stays gets it", async () => (await credentialsOf(node, who)).status === 200);
    expect(await asked()).toHaveLength(1);
  });
});

describeAsRoot("when STS fails at the start", () => {
  test("the proxy says what is missing, serves all the same, and heals", async () => {
    const { node, proxy } = await startProxiedNode({ stsMode: { fault: DENIED } });
    try {
      await eventually("the log names the trust policy", () => /trust policy/i.test(proxy.output()));
      await eventually("the log says so", () => proxy.output().includes("sts:AssumeRole"));
      expect((await getWithToken(node, { user: "alice" }, "/latest/meta-data/placement/region")).body).toBe(
        "us-west-2",
      );
      await node.sts.set({ fault: { kind: "none" } });
      // Alice's token made the proxy ask for her session too, and that it was denied is remembered for 5 s.
      expect(await sdkArn(node, { user: "bob" })).toContain("ImdsProxyTestRole");
      expect(proxy.output()).not.toContain(node.secrets.marker);
    } finally {
      await node.stop();
    }
  });
});
