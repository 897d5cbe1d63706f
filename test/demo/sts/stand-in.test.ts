import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { AssumeRoleCommand, GetCallerIdentityCommand, STSClient } from "@aws-sdk/client-sts";
import { createInstanceSecrets, type DemoCredentials } from "../../../src/demo/imds/secrets.ts";
import { instancePrincipal, sessionMarker } from "../../../src/demo/sts/principals.ts";
import { isSignedWith, parseAuthorization } from "../../../src/demo/sts/signature.ts";
import { type FaultySts, startFaultySts } from "../../support/stand-ins/sts.ts";

const NODE_ROLE = "arn:aws:iam::842413447717:role/NodeRole";
const ROLE = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";
const secrets = createInstanceSecrets();
const node = instancePrincipal(secrets.role, NODE_ROLE, "i-0123", Date.now() + 3600_000);

let standIn: FaultySts;
let endpoint: string;

beforeAll(async () => {
  standIn = await startFaultySts({ listen: [{ address: "127.0.0.1", port: 0 }], principals: [node] });
  endpoint = `http://127.0.0.1:${standIn.endpoints[0]?.port}`;
});
afterAll(() => standIn.stop());
beforeEach(() => {
  standIn.set({ fault: { kind: "none" }, delayMs: 0, clockOffsetMs: 0, roles: null, sessionSeconds: null });
  standIn.add(node);
  standIn.clearLog();
});

function client(credentials: DemoCredentials): STSClient {
  const { accessKeyId, secretAccessKey, sessionToken } = credentials;
  const identity = { accessKeyId, secretAccessKey, ...(sessionToken === "" ? {} : { sessionToken }) };
  return new STSClient({ region: "eu-west-1", endpoint, credentials: identity, maxAttempts: 1 });
}

const whoIs = (credentials: DemoCredentials) => client(credentials).send(new GetCallerIdentityCommand({}));
const nameOf = (attempt: Promise<unknown>) =>
  attempt.then(
    () => "no error",
    (error: unknown) => (error instanceof Error ? error.name : "not an error"),
  );

async function assume(credentials: DemoCredentials, different: object = {}): Promise<DemoCredentials> {
  const input = { RoleArn: ROLE, RoleSessionName: "alice@i-0123", ...different };
  const { Credentials: given } = await client(credentials).send(new AssumeRoleCommand(input));
  return {
    accessKeyId: given?.AccessKeyId ?? "",
    secretAccessKey: given?.SecretAccessKey ?? "",
    sessionToken: given?.SessionToken ?? "",
  };
}

describe("the signature of the example in AWS's documentation", () => {
  // https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, "Example: GET Object".
  const authorization =
    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
  const request = {
    method: "GET",
    target: "/test.txt",
    headers: {
      host: "examplebucket.s3.amazonaws.com",
      range: "bytes=0-9",
      "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
      "x-amz-date": "20130524T000000Z",
    },
    body: new Uint8Array(),
  };
  const secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

  test("is accepted, and nothing that differs from it", () => {
    const claim = parseAuthorization(authorization);
    if (claim === null) throw new Error("not read");
    expect(isSignedWith(secret, claim, request)).toBe(true);
    expect(isSignedWith(`${secret}x`, claim, request)).toBe(false);
    expect(isSignedWith(secret, claim, { ...request, method: "PUT" })).toBe(false);
    expect(isSignedWith(secret, claim, { ...request, target: "/test.txt?x=" })).toBe(false);
    expect(isSignedWith(secret, claim, { ...request, body: new Uint8Array([0]) })).toBe(false);
    expect(isSignedWith(secret, { ...claim, region: "us-east-2" }, request)).toBe(false);
    for (const name of Object.keys(request.headers)) {
      const headers = { ...request.headers, [name]: "other" };
      expect(isSignedWith(secret, claim, { ...request, headers })).toBe(false);
    }
  });

  test.each(["", "Bearer x", authorization.replace("aws4_request", "aws5"), authorization.slice(0, -1)])(
    "is not read from %p",
    (header) => {
      expect(parseAuthorization(header)).toBeNull();
    },
  );
});

describe("who signed", () => {
  test("the instance role is told its name", async () => {
    expect(await whoIs(secrets.role)).toMatchObject({
      Account: "842413447717",
      Arn: "arn:aws:sts::842413447717:assumed-role/NodeRole/i-0123",
    });
  });

  test("a session that was given out is told its own, and its secrets are marked", async () => {
    const session = await assume(secrets.role);
    expect((await whoIs(session)).Arn).toBe(
      "arn:aws:sts::842413447717:assumed-role/ImdsProxyTestRole/alice@i-0123",
    );
    expect(session.secretAccessKey).toStartWith(sessionMarker("ImdsProxyTestRole"));
    expect(session.sessionToken).toStartWith(sessionMarker("ImdsProxyTestRole"));
  });

  test.each([
    ["a wrong secret", { secretAccessKey: "wrong" }, "SignatureDoesNotMatch"],
    ["an unknown key", { accessKeyId: "ASIAUNKNOWN" }, "InvalidClientTokenId"],
    ["a wrong token", { sessionToken: "wrong" }, "InvalidClientTokenId"],
    ["no token", { sessionToken: "" }, "InvalidClientTokenId"],
  ])("%s is refused", async (_name, wrong, code) => {
    expect(await nameOf(whoIs({ ...secrets.role, ...wrong }))).toBe(code);
    expect(standIn.log()).toMatchObject([{ status: 403, code, principalArn: null }]);
  });

  test("credentials whose end has come are refused", async () => {
    standIn.add({ ...node, expiresAtMs: Date.now() - 1 });
    expect(await nameOf(whoIs(secrets.role))).toBe("ExpiredToken");
  });

  test("a session ends after the seconds that the test sets, and is then refused", async () => {
    standIn.set({ sessionSeconds: 90 });
    const session = await assume(secrets.role);
    expect(await nameOf(whoIs(session))).toBe("no error");
    standIn.set({ clockOffsetMs: 91_000 });
    expect(await nameOf(whoIs(session))).toBe("ExpiredToken");
  });

  test("a request without a signature is refused", async () => {
    const response = await fetch(endpoint, {
      method: "POST",
      body: "Action=GetCallerIdentity&Version=2011-06-15",
    });
    expect(response.status).toBe(403);
    expect(await response.text()).toContain("<Code>MissingAuthenticationToken</Code>");
  });

  test("a signed request that is sent again after five minutes is refused", async () => {
    standIn.set({ clockOffsetMs: 6 * 60_000 });
    expect(await nameOf(whoIs(secrets.role))).toBe("SignatureDoesNotMatch");
  });
});

describe("AssumeRole", () => {
  test.each([
    ["a role that does not exist", { roles: {} }, {}],
    ["a role that trusts another", { roles: { [ROLE]: { trusts: [ROLE] } } }, {}],
    ["a wrong external id", { roles: { [ROLE]: { trusts: ["*"], externalId: "x" } } }, { ExternalId: "y" }],
    ["no external id", { roles: { [ROLE]: { trusts: ["*"], externalId: "x" } } }, {}],
  ])("of %s is denied", async (_name, mode, input) => {
    standIn.set(mode);
    expect(await nameOf(assume(secrets.role, input))).toBe("AccessDenied");
  });

  test("of a role that trusts the caller is not", async () => {
    standIn.set({ roles: { [ROLE]: { trusts: [NODE_ROLE], externalId: "x" } } });
    expect((await assume(secrets.role, { ExternalId: "x" })).accessKeyId).toStartWith("ASIA");
  });

  test.each([
    ["a name with a space", { RoleSessionName: "alice smith" }],
    ["a name of one character", { RoleSessionName: "a" }],
    ["more than an hour, role to role", { DurationSeconds: 3601 }],
    ["less than 15 minutes", { DurationSeconds: 899 }],
    ["what is no role", { RoleArn: "arn:aws:iam::842413447717:user/alice" }],
  ])("with %s is invalid", async (_name, input) => {
    expect(await nameOf(assume(secrets.role, input))).toBe("ValidationError");
  });

  test("with more session policies than STS takes is invalid, and with ten is not", async () => {
    const policies = (count: number) =>
      Array.from({ length: count }, (_, i) => ({ arn: `arn:aws:iam::842413447717:policy/P${i}` }));
    expect(await nameOf(assume(secrets.role, { PolicyArns: policies(11) }))).toBe("ValidationError");
    expect(await nameOf(assume(secrets.role, { PolicyArns: policies(10) }))).toBe("no error");
  });

  test("by a session whose policy denies everything is denied, and its own name it is told", async () => {
    const Policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}';
    const session = await assume(secrets.role, { Policy });
    expect(await nameOf(assume(session))).toBe("AccessDenied");
    expect(await nameOf(whoIs(session))).toBe("no error");
  });

  test("an error that a test wishes does not touch GetCallerIdentity", async () => {
    standIn.set({ fault: { kind: "error", status: 403, code: "AccessDenied" } });
    expect(await nameOf(assume(secrets.role))).toBe("AccessDenied");
    expect(await nameOf(whoIs(secrets.role))).toBe("no error");
  });
});
