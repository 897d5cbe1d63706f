import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { MOST_OBJECT_BYTES } from "../../src/config/object.ts";
import type { Source } from "../../src/config/remote.ts";
import { fetchSource } from "../../src/fleet/source.ts";
import { getParameter, type SsmRequest } from "../../src/fleet/ssm.ts";
import { S3_KEYS } from "../support/stand-ins/s3.ts";
import { type SsmStandIn, startSsm } from "../support/stand-ins/ssm.ts";

const NAME = "/imdsproxy/rules";
const VALUE = 'role: "é\\n\\t𝒳"\n\n';

let ssm: SsmStandIn;
beforeAll(() => {
  ssm = startSsm(NAME);
});
afterAll(() => ssm.stop());
beforeEach(() => {
  Object.assign(ssm, { value: VALUE, fault: null });
  ssm.log.length = 0;
});

const asking = (more: Partial<SsmRequest> = {}) =>
  getParameter({
    location: { parameter: NAME, region: null },
    region: "us-west-2",
    endpoint: ssm.endpoint,
    credentials: S3_KEYS,
    ...more,
  });
const failing = async (more: Partial<SsmRequest> = {}) => {
  const answer = await asking(more);
  if (answer.kind !== "failed") throw new Error(`it is ${answer.kind}`);
  const text = JSON.stringify(answer);
  for (const secret of [S3_KEYS.secretAccessKey, S3_KEYS.sessionToken, "said by SSM"])
    expect(text).not.toContain(secret);
  return answer;
};

describe("getParameter()", () => {
  test("sends one signed POST, and gives the bytes of the value as they were put there", async () => {
    expect(await asking()).toEqual({ kind: "found", bytes: Buffer.from(VALUE) });
    expect(ssm.log.map(({ body }) => body)).toEqual([{ Name: NAME, WithDecryption: true }]);
  });

  test("takes the longest value, each of whose bytes JSON writes as six, and no longer answer", async () => {
    ssm.value = "\u0001".repeat(8192);
    expect(await asking()).toEqual({ kind: "found", bytes: Buffer.from(ssm.value) });
    ssm.fault = "endless";
    expect((await failing()).why).toEndWith("sent more than 65536 bytes, and a parameter has at most 8 KiB");
  });

  test("waits no longer than it may", async () => {
    ssm.fault = "hangs";
    expect((await failing({ limitMs: 50 })).why).toContain("has not sent the object within 0.05 s");
  });

  test("says so where SSM is away", async () => {
    const { why, remedy } = await failing({ endpoint: "http://127.0.0.1:1" });
    expect(why).toContain("127.0.0.1:1 cannot be reached");
    expect(remedy).toContain("reaches SSM");
  });

  for (const [status, code, why, remedy] of [
    [400, "ParameterNotFound", "there is no such parameter in us-west-2", "--region us-west-2"],
    [400, "com.amazonaws.ssm#AccessDeniedException", "SSM refuses the parameter", `on ${NAME}`],
    [400, "ThrottlingException", "SSM was asked too often", "raise config.every"],
    [400, "InvalidKeyId", "the key of KMS", "String"],
    [400, "ExpiredTokenException", "SSM refuses the instance role's signature", "clock"],
    [500, "InternalServerError", "SSM gives no parameter", "next poll"],
  ] as const)
    test(`says what ${code} means`, async () => {
      ssm.fault = { status, body: JSON.stringify({ __type: code, message: "said by SSM" }) };
      const answer = await failing();
      expect(answer.why).toStartWith(why);
      expect(answer.why).toEndWith(`(status ${status}, ${code.replace(/^.*#/, "")})`);
      expect(answer.remedy).toContain(remedy);
    });

  test("says nothing of an error that is none", async () => {
    for (const body of ["", "<b>", "[]", '{"__type": 1}', '{"__type": "\\u001b[2J"}']) {
      ssm.fault = { status: 400, body };
      expect((await failing()).why).toBe("SSM gives no parameter (status 400)");
    }
  });

  test("takes nothing that is no parameter", async () => {
    for (const body of ["", "x", "null", "{}", '{"Parameter": {}}', '{"Parameter": {"Value": 1}}']) {
      ssm.fault = { status: 200, body };
      expect((await failing()).why).toEndWith("sent something that is no parameter");
    }
  });

  test("says that a signature is wrong", async () => {
    const { why } = await failing({ credentials: { ...S3_KEYS, secretAccessKey: "other" } });
    expect(why).toBe("SSM refuses the instance role's signature (status 400, InvalidSignatureException)");
  });

  test("follows no redirect", async () => {
    const elsewhere = startSsm(NAME);
    try {
      ssm.fault = { status: 307, body: "", headers: { Location: elsewhere.endpoint } };
      expect((await failing()).why).toBe("SSM answered with a redirect (status 307), which is not followed");
      expect(elsewhere.log).toEqual([]);
    } finally {
      await elsewhere.stop();
    }
  });
});

test("fetchSource() asks in the region that was configured, else in that of the ARN, else in the node's", async () => {
  const arn = `arn:aws:ssm:eu-west-1:123456789012:parameter${NAME}`;
  const regionOf = async (source: Source, region: string | null) => {
    await fetchSource({
      source,
      region,
      nodeRegion: async () => "us-west-2",
      endpoint: ssm.endpoint,
      credentials: async () => S3_KEYS,
      etag: null,
      mostBytes: MOST_OBJECT_BYTES,
    });
    return ssm.log.at(-1)?.headers.get("authorization")?.split("/")[2];
  };
  expect(await regionOf({ parameter: arn, region: "eu-west-1" }, "eu-north-1")).toBe("eu-north-1");
  expect(await regionOf({ parameter: arn, region: "eu-west-1" }, null)).toBe("eu-west-1");
  expect(await regionOf({ parameter: NAME, region: null }, null)).toBe("us-west-2");
  expect(ssm.log[0]?.body).toEqual({ Name: arn, WithDecryption: true });
});
