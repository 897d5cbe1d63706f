import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { AssumeRoleCommand, STSClient } from "@aws-sdk/client-sts";
import { createInstanceSecrets, type DemoCredentials } from "../../src/demo/imds/secrets.ts";
import { instancePrincipal } from "../../src/demo/sts/principals.ts";
import { type FaultySts, startFaultySts } from "../support/stand-ins/sts.ts";

const NODE_ROLE = "arn:aws:iam::842413447717:role/NodeRole";
const ROLE = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";
const secrets = createInstanceSecrets();

let standIn: FaultySts;
let endpoint: string;

beforeAll(async () => {
  const node = instancePrincipal(secrets.role, NODE_ROLE, "i-0123", Date.now() + 3600_000);
  standIn = await startFaultySts({ listen: [{ address: "127.0.0.1", port: 0 }], principals: [node] });
  endpoint = `http://127.0.0.1:${standIn.endpoints[0]?.port}`;
});
afterAll(() => standIn.stop());
beforeEach(() => standIn.clearLog());

/** A session of ROLE, to sign with. */
async function assume(credentials: DemoCredentials): Promise<DemoCredentials> {
  const sts = new STSClient({ region: "eu-west-1", endpoint, credentials, maxAttempts: 1 });
  const { Credentials: given } = await sts.send(
    new AssumeRoleCommand({ RoleArn: ROLE, RoleSessionName: "alice@i-0123" }),
  );
  return {
    accessKeyId: given?.AccessKeyId ?? "",
    secretAccessKey: given?.SecretAccessKey ?? "",
    sessionToken: given?.SessionToken ?? "",
  };
}

const debians = ["/usr/bin/aws", "/usr/lib/python3/dist-packages/boto3"].every((path) => existsSync(path));
if (!debians)
  process.stderr.write("skipped unless in CI: real clients; run: apt-get install awscli python3-boto3\n");

/** Clients that are not JavaScript, from Debian; they sign with code of their own. */
describe.if(debians || process.env["CI"] === "true")("other clients", () => {
  async function run(command: string[], credentials: DemoCredentials) {
    const child = Bun.spawn(command, {
      env: {
        PATH: "/usr/bin:/bin",
        AWS_ACCESS_KEY_ID: credentials.accessKeyId,
        AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
        AWS_SESSION_TOKEN: credentials.sessionToken,
        AWS_DEFAULT_REGION: "eu-west-1",
        AWS_MAX_ATTEMPTS: "1",
      },
      stdout: "pipe",
      stderr: "pipe",
    });
    const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    return { output, errors, code: await child.exited };
  }
  const identity = () => ["/usr/bin/aws", "--endpoint-url", endpoint, "sts", "get-caller-identity"];

  test("the AWS CLI is told who it is, and refused with a wrong secret", async () => {
    const session = await assume(secrets.role);
    const { output } = await run(identity(), session);
    expect(JSON.parse(output)).toMatchObject({
      Arn: "arn:aws:sts::842413447717:assumed-role/ImdsProxyTestRole/alice@i-0123",
    });
    const refused = await run(identity(), { ...session, secretAccessKey: "wrong" });
    expect(refused.errors).toContain("SignatureDoesNotMatch");
    expect(refused.code).not.toBe(0);
  });

  test("boto3 assumes a role with tags", async () => {
    const script = `
import boto3
print(boto3.client("sts", endpoint_url="${endpoint}").assume_role(RoleArn="${ROLE}", RoleSessionName="bo",
  Tags=[{"Key": "a b", "Value": "c/d+e=f&g ü"}])["AssumedRoleUser"]["Arn"])`;
    const { output, errors } = await run(["/usr/bin/python3", "-c", script], secrets.role);
    expect(errors).toBe("");
    expect(output.trim()).toBe("arn:aws:sts::842413447717:assumed-role/ImdsProxyTestRole/bo");
    expect(standIn.log()[0]?.parameters["Tags.member.1.Value"]).toBe("c/d+e=f&g ü");
  });
});
