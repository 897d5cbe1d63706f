import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInstanceSecrets } from "../../src/demo/imds/secrets.ts";
import { instancePrincipal, type StsPrincipal, sessionMarker } from "../../src/demo/sts/principals.ts";
import { ImdsProxyError } from "../../src/errors.ts";
import { SessionBroker } from "../../src/sessions/broker.ts";
import { StsFailure } from "../../src/sessions/failure.ts";
import type { InstanceCredentials } from "../../src/sessions/instance-credentials.ts";
import { type AwsSts, createSts, stsEndpoint } from "../../src/sessions/sts.ts";
import type { SessionRequest } from "../../src/sessions/types.ts";
import { clockFinding } from "../../src/wiring/health-checks.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { type FaultySts, type StsFault, startFaultySts } from "../support/stand-ins/sts.ts";
import { aRequest, DAY, HOUR } from "./support.ts";

const NODE_ROLE = "arn:aws:iam::842413447717:role/NodeRole";
/** Long enough for the first request, which loads the SDK, on a machine that is busy with something else. */
const TIMEOUT_MS = 50_000;
/** Of what has 136 calls under way at once, on such a machine. */
const PATIENT_MS = 600_000;
/** Of an attempt that is meant to take too long. */
const SHORT_MS = 400;
const secrets = createInstanceSecrets();
const node = instancePrincipal(secrets.role, NODE_ROLE, "i-0123", Date.now() + 6 * HOUR);

let standIn: FaultySts;
let endpoint: string;
let given: StsPrincipal;
let asked: number;
let sts: AwsSts;

function credentialsOf(principal: StsPrincipal): InstanceCredentials {
  const { accessKeyId, secretAccessKey, sessionToken, expiresAtMs } = principal;
  return { accessKeyId, secretAccessKey, sessionToken, expiresAtMs };
}

function stsWith(credentials: () => Promise<InstanceCredentials>, timeoutMs = TIMEOUT_MS): AwsSts {
  return createSts({ region: "us-west-2", endpoint, metadata: { credentials }, timeoutMs });
}

const giveAndCount = async (): Promise<InstanceCredentials> => {
  asked++;
  return credentialsOf(given);
};

const assume = (request: SessionRequest = aRequest(), through: AwsSts = sts) =>
  through.assumeRole(request, new AbortController().signal);

async function failureOf(attempt: Promise<unknown>): Promise<StsFailure> {
  const error = await attempt.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof StsFailure)) throw new Error(`expected a StsFailure, found ${error}`);
  const everything = JSON.stringify(error) + error.message + error.detail + error.stack;
  expect(everything).not.toContain(secrets.marker);
  expect(everything).not.toContain("SESSION/");
  return error;
}

beforeAll(async () => {
  standIn = await startFaultySts({ listen: [{ address: "127.0.0.1", port: 0 }], principals: [node] });
  endpoint = `http://127.0.0.1:${standIn.endpoints[0]?.port}`;
});
afterAll(() => standIn.stop());

function freshStart(): void {
  standIn.set({ fault: { kind: "none" }, delayMs: 0, clockOffsetMs: 0, roles: null });
  standIn.add(node);
  standIn.clearLog();
  sts?.close();
  given = node;
  asked = 0;
  sts = stsWith(giveAndCount);
}
beforeAll(freshStart);
afterEach(freshStart);

test("load() loads the SDK and asks nothing: neither for the node's credentials nor STS", async () => {
  await sts.load();
  await sts.load();
  expect([asked, standIn.log()]).toEqual([0, []]);
});

describe("createSts()", () => {
  test("sends the whole request, signed with the node's credentials", async () => {
    const session = await assume(
      aRequest({
        roleArn: "arn:aws:iam::842413447717:role/team/DataEng",
        durationSeconds: 1800,
        sourceIdentity: "alice",
        tags: [
          ["job", "4711"],
          ["team", "data & <science>/ü+%"],
        ],
        transitiveTagKeys: ["team"],
        policyArns: ["arn:aws:iam::aws:policy/ReadOnlyAccess"],
        policy: '{"Version":"2012-10-17","Statement":[]}',
        externalId: "x-1",
      }),
    );
    expect(session.secretAccessKey).toStartWith(sessionMarker("DataEng"));
    expect(session.sessionToken).toStartWith(sessionMarker("DataEng"));
    expect(Math.abs(session.expiresAtMs - Date.now() - 1800_000)).toBeLessThan(10_000);
    expect(standIn.log()).toMatchObject([{ action: "AssumeRole", principalArn: node.arn, status: 200 }]);
    expect(standIn.log()[0]?.userAgent).toContain("imdsproxy");
    expect(standIn.log()[0]?.parameters).toEqual({
      Action: "AssumeRole",
      Version: "2011-06-15",
      RoleArn: "arn:aws:iam::842413447717:role/team/DataEng",
      RoleSessionName: "alice@i-0123",
      DurationSeconds: "1800",
      SourceIdentity: "alice",
      "Tags.member.1.Key": "job",
      "Tags.member.1.Value": "4711",
      "Tags.member.2.Key": "team",
      "Tags.member.2.Value": "data & <science>/ü+%",
      "TransitiveTagKeys.member.1": "team",
      "PolicyArns.member.1.arn": "arn:aws:iam::aws:policy/ReadOnlyAccess",
      Policy: '{"Version":"2012-10-17","Statement":[]}',
      ExternalId: "x-1",
    });
  });

  test("sends nothing for what the request leaves out", async () => {
    await assume();
    expect(Object.keys(standIn.log()[0]?.parameters ?? {}).sort()).toEqual(
      ["Action", "DurationSeconds", "RoleArn", "RoleSessionName", "Version"].sort(),
    );
  });

  test("asks for the node's credentials once for many requests", async () => {
    await Promise.all(Array.from({ length: 20 }, () => assume()));
    expect(asked).toBe(1);
  });

  test("asks anew when the node's credentials have less than five minutes left", async () => {
    given = { ...node, expiresAtMs: Date.now() + 4 * 60_000 };
    await assume();
    const before = asked;
    await assume();
    expect(asked).toBeGreaterThan(before);
  });
});

const AWS_ERRORS: [status: number, code: string, kind: "denied" | "transient"][] = [
  [403, "AccessDenied", "denied"],
  [403, "AccessDeniedException", "denied"],
  [400, "MalformedPolicyDocument", "denied"],
  [400, "PackedPolicyTooLarge", "denied"],
  [403, "RegionDisabledException", "denied"],
  [400, "ValidationError", "denied"],
  [400, "SomethingNew", "denied"],
  [403, "InvalidClientTokenId", "transient"],
  [403, "UnrecognizedClientException", "transient"],
  [403, "ExpiredToken", "transient"],
  [400, "ExpiredTokenException", "transient"],
  [403, "SignatureDoesNotMatch", "transient"],
  [400, "RequestExpired", "transient"],
  [403, "RequestTimeTooSkewed", "transient"],
  [400, "Throttling", "transient"],
  [400, "ThrottlingException", "transient"],
  [503, "RequestLimitExceeded", "transient"],
  [429, "TooManyRequestsException", "transient"],
  [429, "WhoKnows", "transient"],
  [408, "RequestTimeout", "transient"],
  [500, "InternalFailure", "transient"],
  [503, "ServiceUnavailable", "transient"],
];

describe("an error of STS", () => {
  test.each(AWS_ERRORS)("%d %s is %s", async (status, code, kind) => {
    standIn.set({ fault: { kind: "error", status, code } });
    expect(await failureOf(assume())).toMatchObject({ kind, code });
  });

  test("AccessDenied: the log is told who and why, the caller only the role that was asked for", async () => {
    standIn.set({ roles: { [aRequest().roleArn]: { trusts: ["arn:aws:iam::842413447717:role/Another"] } } });
    const failure = await failureOf(assume());
    expect(failure.detail).toContain(
      "assumed-role/NodeRole/i-0123 is not authorized to perform: sts:AssumeRole",
    );
    expect(failure.message).toBe(
      "STS refuses to assume arn:aws:iam::842413447717:role/ImdsProxyTestRole (AccessDenied); ask the administrator of this node",
    );
    standIn.set({ roles: { [aRequest().roleArn]: { trusts: [NODE_ROLE] } } });
    await assume();
  });

  test("that throttles says how long to wait: Retry-After, else 5 seconds", async () => {
    standIn.set({ fault: { kind: "error", status: 400, code: "Throttling", retryAfterSeconds: 7 } });
    expect(await failureOf(assume())).toMatchObject({ retryAfterMs: 7_000 });
    standIn.set({ fault: { kind: "error", status: 400, code: "Throttling" } });
    expect(await failureOf(assume())).toMatchObject({ retryAfterMs: 5_000 });
  });

  test("is no retry of the SDK's: each attempt is one request", async () => {
    for (const code of ["Throttling", "InternalFailure"]) {
      standIn.clearLog();
      standIn.set({ fault: { kind: "error", status: 500, code } });
      await failureOf(assume());
      expect(standIn.log().length).toBe(1);
    }
  });

  test("that quotes the signed request, as SignatureDoesNotMatch does, is not repeated anywhere", async () => {
    const message = `The Canonical String should have been 'x-amz-security-token:${secrets.role.sessionToken}'`;
    standIn.set({ fault: { kind: "error", status: 403, code: "SignatureDoesNotMatch", message } });
    // failureOf looks for the secret's marker.
    await failureOf(assume());
    standIn.set({ fault: { kind: "error", status: 400, code: "SomethingNew", message } });
    await failureOf(assume());
  });

  test("that quotes the external id is told without it, on one line, and not at any length", async () => {
    const message = `Value 'hunter2' at 'externalId' failed\n\u0007${"x".repeat(5000)}`;
    standIn.set({ fault: { kind: "error", status: 400, code: "ValidationError", message } });
    const { detail } = await failureOf(assume(aRequest({ externalId: "hunter2" })));
    expect(detail).not.toContain("hunter2");
    expect(detail).toContain("(external id)");
    expect(detail).toMatch(/^[\x20-\x7e]{1,900}$/);
  });
});

const FOREIGN: [name: string, fault: StsFault, code: string][] = [
  ["a cut connection", { kind: "drop" }, "connection"],
  ["silence", { kind: "hang" }, "timeout"],
  [
    "a proxy's page with 200",
    { kind: "body", status: 200, body: "<html><body>Log in</body></html>" },
    "answer",
  ],
  [
    "a proxy's page with 403",
    { kind: "body", status: 403, body: "<html><title>Denied</title></html>" },
    "answer",
  ],
  ["a proxy's page with 502", { kind: "body", status: 502, body: "<html>Bad gateway" }, "answer"],
  ["nothing with 200", { kind: "body", status: 200, body: "" }, "answer"],
  ["bytes that are no XML", { kind: "body", status: 200, body: "\u0000\u00ff{" }, "answer"],
  ["404", { kind: "body", status: 404, body: "not here" }, "answer"],
  [
    "a redirect, which is not followed",
    { kind: "body", status: 302, body: "", headers: { Location: "http://127.0.0.1:1/" } },
    "answer",
  ],
  [
    "credentials with an empty secret",
    {
      kind: "body",
      status: 200,
      body: "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAX</AccessKeyId><SecretAccessKey></SecretAccessKey><SessionToken>t</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
    },
    "answer",
  ],
];

describe("what is no answer of STS", () => {
  test.each(FOREIGN)("%s is a passing failure", async (_name, fault, code) => {
    standIn.set({ fault });
    const hasty = stsWith(async () => credentialsOf(node), SHORT_MS);
    const asked = fault.kind === "hang" ? hasty : sts;
    expect(await failureOf(assume(aRequest(), asked))).toMatchObject({ kind: "transient", code });
    hasty.close();
    standIn.set({ fault: { kind: "none" } });
    expect((await assume()).accessKeyId).toStartWith("ASIA");
  });

  test("an address where nobody listens, and a name that does not exist", async () => {
    const metadata = { credentials: async () => credentialsOf(node) };
    for (const nowhere of ["http://127.0.0.1:1", "http://sts.invalid"]) {
      const lost = createSts({ region: "us-west-2", endpoint: nowhere, metadata, timeoutMs: TIMEOUT_MS });
      expect((await failureOf(assume(aRequest(), lost))).kind).toBe("transient");
    }
  });

  test("an aborted attempt ends at once", async () => {
    standIn.set({ fault: { kind: "hang" } });
    const abort = new AbortController();
    const attempt = failureOf(sts.assumeRole(aRequest(), abort.signal));
    abort.abort();
    expect((await attempt).kind).toBe("transient");
  });
});

describe("the node's own credentials", () => {
  test("that were replaced while ours were thought good are fetched anew, within the attempt", async () => {
    await assume();
    const next = instancePrincipal(createInstanceSecrets().role, NODE_ROLE, "i-0123", Date.now() + 6 * HOUR);
    standIn.remove(node.accessKeyId);
    standIn.add(next);
    given = next;
    expect((await assume()).accessKeyId).toStartWith("ASIA");
    expect(asked).toBe(2);
  });

  test("that STS denies the role are looked at anew, once in ten seconds: the node may have another profile by now", async () => {
    let nowMs = Date.now();
    const denied = createSts({
      ...{ region: "us-west-2", endpoint, metadata: { credentials: giveAndCount }, timeoutMs: TIMEOUT_MS },
      now: () => nowMs,
    });
    const other = instancePrincipal(
      createInstanceSecrets().role,
      "arn:aws:iam::842413447717:role/OtherProfile",
      "i-0123",
      Date.now() + 6 * HOUR,
    );
    standIn.add(other);
    standIn.set({ roles: {} });
    const refused = async () =>
      expect(await failureOf(assume(aRequest(), denied))).toMatchObject({
        kind: "denied",
        code: "AccessDenied",
      });
    await refused();
    // Once for the signature, once to look.
    expect([asked, standIn.log().length]).toEqual([2, 1]);
    await refused();
    expect([asked, standIn.log().length]).toEqual([2, 2]);
    given = other;
    await refused();
    expect(standIn.log().map(({ principalArn }) => principalArn)).toEqual([node.arn, node.arn, node.arn]);
    nowMs += 10_000;
    await refused();
    expect(
      standIn
        .log()
        .slice(3)
        .map(({ principalArn }) => principalArn),
    ).toEqual([node.arn, other.arn]);
    standIn.set({ roles: null });
    expect((await assume(aRequest(), denied)).accessKeyId).toStartWith("ASIA");
    denied.close();
  });

  test("that are expired are asked for anew, and the failure passes", async () => {
    standIn.add({ ...node, expiresAtMs: Date.now() - 1000 });
    expect(await failureOf(assume())).toMatchObject({ kind: "transient", code: "ExpiredToken" });
    expect(asked).toBe(2);
    standIn.add(node);
    await assume();
  });

  test("that cannot be had are a passing failure, which tells the reason to the log alone", async () => {
    const failing = stsWith(() =>
      Promise.reject(new ImdsProxyError("upstream", "asked 169.254.0.2:9081 for the role, found status 500")),
    );
    const failure = await failureOf(assume(aRequest(), failing));
    expect(failure).toMatchObject({ kind: "transient", code: "credentials" });
    expect(failure.detail).toContain("found status 500");
    expect(failure.message).not.toContain("169.254");
    expect(standIn.log()).toEqual([]);
  });

  test("of an error of unknown kind: its text is not repeated", async () => {
    const failing = stsWith(() => Promise.reject(new TypeError(`bad: ${secrets.role.secretAccessKey}`)));
    expect(await failureOf(assume(aRequest(), failing))).toMatchObject({ code: "credentials" });
  });

  test("are hidden in an answer that comes after they were replaced, however often the new ones were fetched", async () => {
    const asks = Promise.withResolvers<void>();
    const answers = Promise.withResolvers<void>();
    const quote = `Value '${secrets.role.sessionToken}' failed`;
    let isFirst = true;
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      async fetch() {
        if (!isFirst) return new Response("", { status: 502 });
        isFirst = false;
        asks.resolve();
        await answers.promise;
        const error = `<Error><Type>Sender</Type><Code>ValidationError</Code><Message>${quote}</Message></Error>`;
        return new Response(`<ErrorResponse>${error}</ErrorResponse>`, {
          status: 400,
          headers: { "content-type": "text/xml" },
        });
      },
    });
    try {
      let credentials = credentialsOf(node);
      const through = createSts({
        region: "us-west-2",
        endpoint: server.url.origin,
        metadata: { credentials: async () => credentials },
        timeoutMs: TIMEOUT_MS,
      });
      const late = failureOf(assume(aRequest(), through));
      await asks.promise;
      credentials = { ...credentials, accessKeyId: "ASIANEW", secretAccessKey: "new", sessionToken: "newer" };
      for (let again = 0; again < 3; again++) {
        through.forgetCredentials();
        await failureOf(assume(aRequest(), through));
      }
      answers.resolve();
      expect(await late).toMatchObject({
        code: "ValidationError",
        detail: expect.stringContaining("(secret)"),
      });
      through.close();
    } finally {
      await server.stop(true);
    }
  });

  test("with an empty field are not used to sign", async () => {
    for (const field of ["accessKeyId", "secretAccessKey", "sessionToken"]) {
      const failing = stsWith(async () => ({ ...credentialsOf(node), [field]: "" }));
      expect(await failureOf(assume(aRequest(), failing))).toMatchObject({ code: "credentials" });
    }
    expect(standIn.log()).toEqual([]);
  });
});

describe("a node whose clock is wrong", () => {
  test("by a day, either way, still gets its session: the SDK measures, the attempt is repeated", async () => {
    standIn.add({ ...node, expiresAtMs: Date.now() + 3 * DAY });
    for (const clockOffsetMs of [DAY, -DAY, 0]) {
      standIn.set({ clockOffsetMs });
      const session = await assume();
      expect(Math.abs(session.expiresAtMs - Date.now() - clockOffsetMs - HOUR)).toBeLessThan(10_000);
    }
  });

  test("is known by how much it is wrong from the last answer, and that it is right again", async () => {
    expect(sts.clockOffsetMs()).toBe(0);
    for (const clockOffsetMs of [20 * 60_000, -20 * 60_000]) {
      standIn.set({ clockOffsetMs });
      await assume();
      expect(Math.abs(sts.clockOffsetMs() - clockOffsetMs)).toBeLessThan(10_000);
    }
    standIn.set({ clockOffsetMs: 0 });
    await assume();
    expect(clockFinding(sts.clockOffsetMs())).toBeNull();
  });
});

describe("forgetCredentials()", () => {
  test("has the next request signed by what the metadata service gives then; without it, what there is is kept", async () => {
    const other = instancePrincipal(createInstanceSecrets().role, NODE_ROLE, "agent", Date.now() + 6 * HOUR);
    standIn.add(other);
    const signers = () => standIn.log().map(({ principalArn }) => principalArn?.split("/").at(-1));
    await assume();
    given = other;
    await assume();
    expect(signers()).toEqual(["i-0123", "i-0123"]);
    sts.forgetCredentials();
    await assume();
    await assume();
    expect(signers()).toEqual(["i-0123", "i-0123", "agent", "agent"]);
    expect(asked).toBe(2);
  });

  test("leaves a request that is under way as it began", async () => {
    standIn.set({ delayMs: 100 });
    const underway = assume();
    while (standIn.log().length === 0 && asked === 0) await Bun.sleep(1);
    sts.forgetCredentials();
    expect((await underway).accessKeyId).toStartWith("ASIA");
  });
});

describe("the region", () => {
  test("that cannot be found is a passing failure, and is asked for again", async () => {
    let found = false;
    const region = async () => {
      if (!found) throw new Error("no metadata");
      return "eu-central-1";
    };
    const metadata = { credentials: async () => credentialsOf(node) };
    const late = createSts({ region, endpoint, metadata, timeoutMs: TIMEOUT_MS });
    expect(await failureOf(assume(aRequest(), late))).toMatchObject({ kind: "transient", code: "region" });
    found = true;
    expect((await assume(aRequest(), late)).accessKeyId).toStartWith("ASIA");
  });

  test.each([
    ["us-east-1", "https://sts.us-east-1.amazonaws.com"],
    ["eu-central-1", "https://sts.eu-central-1.amazonaws.com"],
    ["cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn"],
    ["us-gov-west-1", "https://sts.us-gov-west-1.amazonaws.com"],
    ["us-iso-east-1", "https://sts.us-iso-east-1.c2s.ic.gov"],
    ["us-isob-east-1", "https://sts.us-isob-east-1.sc2s.sgov.gov"],
    ["eusc-de-east-1", "https://sts.eusc-de-east-1.amazonaws.eu"],
  ])("%s has its STS at %s", async (region, url) => {
    expect(await stsEndpoint(region)).toBe(url);
  });
});

describe("the environment", () => {
  test("and ~/.aws change nothing, and the SDK is not loaded before it is needed", async () => {
    const home = mkdtempSync(join(tmpdir(), "imdsproxy-sts-"));
    try {
      const config = join(home, "config");
      writeFileSync(
        config,
        "[default]\nregion = mars-1\nendpoint_url = http://127.0.0.1:1\naws_access_key_id = AKIAEVIL\naws_secret_access_key = evil\nuse_fips_endpoint = true\ncredential_process = /bin/false\n",
      );
      const child = Bun.spawn([process.execPath, join(import.meta.dir, "outside.ts")], {
        env: {
          HOME: home,
          AWS_CONFIG_FILE: config,
          AWS_SHARED_CREDENTIALS_FILE: config,
          AWS_PROFILE: "default",
          AWS_ACCESS_KEY_ID: "AKIAEVIL",
          AWS_SECRET_ACCESS_KEY: "evil",
          AWS_SESSION_TOKEN: "evil",
          AWS_REGION: "mars-1",
          AWS_ENDPOINT_URL: "http://127.0.0.1:1",
          AWS_ENDPOINT_URL_STS: "http://127.0.0.1:1",
          AWS_USE_FIPS_ENDPOINT: "true",
          AWS_USE_DUALSTACK_ENDPOINT: "true",
          AWS_EC2_METADATA_SERVICE_ENDPOINT: "http://127.0.0.1:1",
          AWS_CONTAINER_CREDENTIALS_FULL_URI: "http://127.0.0.1:1",
          AWS_WEB_IDENTITY_TOKEN_FILE: "/etc/hostname",
          AWS_ROLE_ARN: NODE_ROLE,
          AWS_MAX_ATTEMPTS: "nonsense",
          AWS_AUTH_SCHEME_PREFERENCE: "sigv4a",
          AWS_SDK_UA_APP_ID: "x".repeat(60),
        },
        stdin: Buffer.from(JSON.stringify({ endpoint, credentials: credentialsOf(node) })),
        stdout: "pipe",
        stderr: "pipe",
      });
      const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
      expect(errors).toBe("");
      const { accessKeyId, loadedBefore, loadedAfter } = JSON.parse(output);
      expect(accessKeyId).toStartWith("ASIA");
      expect(loadedBefore).toBe(0);
      expect(loadedAfter).toBeGreaterThan(0);
      expect(standIn.log()).toMatchObject([{ principalArn: node.arn, status: 200 }]);
    } finally {
      rmSync(home, { recursive: true });
    }
  });
});

describe("an endpoint in the environment", () => {
  test("is not used in place of the region's", async () => {
    const { AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL } = process.env;
    Object.assign(process.env, { AWS_ENDPOINT_URL_STS: endpoint, AWS_ENDPOINT_URL: endpoint });
    try {
      const metadata = { credentials: async () => credentialsOf(node) };
      // A region that does not exist: its endpoint is no host, so that nothing leaves the machine.
      const own = createSts({ region: "xx-nowhere-1", endpoint: null, metadata, timeoutMs: TIMEOUT_MS });
      expect((await failureOf(assume(aRequest(), own))).kind).toBe("transient");
      expect(standIn.log()).toEqual([]);
    } finally {
      restore("AWS_ENDPOINT_URL_STS", AWS_ENDPOINT_URL_STS);
      restore("AWS_ENDPOINT_URL", AWS_ENDPOINT_URL);
    }
  });
});

function restore(name: string, value: string | undefined): void {
  if (value === undefined) delete process.env[name];
  else process.env[name] = value;
}

describe("broker and STS together", () => {
  test(
    "136 users at once: one AssumeRole each, with a session name of their own",
    async () => {
      standIn.set({ delayMs: 5 });
      // An attempt that met its deadline would be made again by the broker's clock, which stands still here.
      const patient = stsWith(giveAndCount, PATIENT_MS);
      const broker = new SessionBroker({
        sts: patient,
        clock: new FakeClock(Date.now()),
        monotonicMs: () => 0,
        random: Math.random,
      });
      const names = Array.from({ length: 136 }, (_, index) => `user${index}@i-0123`);
      const asks = names.flatMap((sessionName) => [aRequest({ sessionName }), aRequest({ sessionName })]);
      const outcomes = await Promise.all(asks.map((request) => broker.get(request)));
      broker.stop();
      patient.close();
      expect(outcomes.every((outcome) => outcome.kind === "session")).toBe(true);
      expect(
        standIn
          .log()
          .map((entry) => entry.parameters["RoleSessionName"])
          .sort(),
      ).toEqual(names.sort());
      expect(asked).toBe(1);
    },
    PATIENT_MS,
  );
});
