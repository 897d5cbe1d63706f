import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { getObject, objectUrl, type S3Request } from "../../src/fleet/s3.ts";
import { serviceEndpoint } from "../../src/fleet/signed-request.ts";
import { S3_KEYS, type S3StandIn, startS3 } from "../support/stand-ins/s3.ts";

let s3: S3StandIn;
beforeAll(async () => {
  s3 = await startS3();
});
afterAll(() => s3.stop());
beforeEach(() => {
  Object.assign(s3, { object: "role: x\n", etag: '"1"', fault: null });
  s3.log.length = 0;
});

const asking = (more: Partial<S3Request> = {}) =>
  getObject({
    location: { bucket: "bucket", key: "a b/rules+(1).yaml" },
    region: "us-west-2",
    endpoint: s3.endpoint,
    credentials: S3_KEYS,
    etag: null,
    mostBytes: 1_000,
    ...more,
  });
const why = async (more: Partial<S3Request> = {}) => {
  const answer = await asking(more);
  if (answer.kind !== "failed") throw new Error(`it is ${answer.kind}`);
  expect(JSON.stringify(answer)).not.toContain(S3_KEYS.secretAccessKey);
  expect(JSON.stringify(answer)).not.toContain(S3_KEYS.sessionToken);
  return answer;
};

describe("getObject()", () => {
  test("sends one signed GET, and gives the bytes with their entity tag", async () => {
    expect(await asking()).toEqual({ kind: "found", bytes: Buffer.from("role: x\n"), etag: '"1"' });
    expect(s3.log).toMatchObject([
      { target: "/bucket/a%20b/rules%2B%281%29.yaml", signed: true, ifNoneMatch: null },
    ]);
  });

  test("asks on condition where it has an entity tag, which is signed as well", async () => {
    expect(await asking({ etag: '"1"' })).toEqual({ kind: "unchanged" });
    expect((await asking({ etag: '"0"' })).kind).toBe("found");
    expect(s3.log.map(({ ifNoneMatch, signed }) => [ifNoneMatch, signed])).toEqual([
      ['"1"', true],
      ['"0"', true],
    ]);
    expect(s3.log[0]?.headers["authorization"]).toContain("if-none-match");
  });

  test("keeps no entity tag that is none", async () => {
    s3.etag = "x".repeat(300);
    expect(await asking()).toMatchObject({ kind: "found", etag: null });
  });

  test("takes an object of exactly the most bytes, and none of one more", async () => {
    s3.object = "x".repeat(1_000);
    expect(await asking()).toMatchObject({ kind: "found" });
    s3.object = "x".repeat(1_001);
    expect((await why()).why).toBe("the object has more than 1000 bytes");
  });

  test("reads no more of an object without a length and without an end", async () => {
    s3.fault = "endless";
    expect((await why()).why).toBe("the object has more than 1000 bytes");
  });

  test("does not take a part of an object for the whole", async () => {
    s3.object = "x".repeat(900);
    s3.fault = "cut";
    await why();
  });

  test("does not take 'unchanged' where it asked without condition", async () => {
    s3.fault = "lies-unchanged";
    expect((await why()).why).toBe("S3 gives no object (status 304)");
  });

  test("waits no longer than it may", async () => {
    s3.fault = "hangs";
    expect((await why({ limitMs: 50 })).why).toContain("has not sent the object within 0.05 s");
  });

  test("says so where S3 is away", async () => {
    s3.fault = "gone";
    await why();
    expect((await why({ endpoint: "http://127.0.0.1:1" })).why).toContain("127.0.0.1:1 cannot be reached");
  });

  for (const [status, code, said] of [
    [403, "AccessDenied", "S3 refuses the object to the instance role (status 403, AccessDenied)"],
    [404, "NoSuchKey", "there is no such object (status 404, NoSuchKey)"],
    [503, "SlowDown", "S3 gives no object (status 503, SlowDown)"],
    [500, "<b>\u001b[2J", "S3 gives no object (status 500)"],
    [206, "x", "S3 gives no object (status 206, x)"],
  ] as const)
    test(`says what a status of ${status} means`, async () => {
      s3.fault = { status, code };
      expect((await why()).why).toBe(said);
    });

  test("says that a signature is wrong, and by which permission it would be right", async () => {
    const { why: said, remedy } = await why({ credentials: { ...S3_KEYS, secretAccessKey: "other" } });
    expect(said).toContain("SignatureDoesNotMatch");
    expect(remedy).toMatch(/s3:GetObject on the object .+ of the bucket bucket, and kms:Decrypt/);
  });

  test("follows no redirect, and names the region of the bucket", async () => {
    const elsewhere = await startS3();
    try {
      s3.fault = { status: 307, headers: { Location: `${elsewhere.endpoint}/bucket/rules.yaml` } };
      expect((await why()).why).toContain("S3 answered with a redirect (status 307, Code)");
      s3.fault = { status: 301, code: "PermanentRedirect", headers: { "x-amz-bucket-region": "eu-west-1" } };
      const { why: said, remedy } = await why();
      expect(said).toBe(
        "the bucket bucket is in eu-west-1, and us-west-2 was asked (status 301, PermanentRedirect)",
      );
      expect(remedy).toBe("set config.region: eu-west-1");
      expect(elsewhere.log).toEqual([]);
    } finally {
      await elsewhere.stop();
    }
  });

  test("heeds no HTTP_PROXY", async () => {
    const proxy = await startS3();
    process.env["HTTP_PROXY"] = proxy.endpoint;
    try {
      expect((await asking()).kind).toBe("found");
      expect(proxy.log).toEqual([]);
    } finally {
      delete process.env["HTTP_PROXY"];
      await proxy.stop();
    }
  });
});

describe("objectUrl()", () => {
  const location = { bucket: "bucket", key: "a/b c" };
  test("has the bucket in the host's name, but where a certificate does not cover that", () => {
    const at = "https://s3.us-west-2.amazonaws.com";
    expect(objectUrl(location, at, false).href).toBe("https://bucket.s3.us-west-2.amazonaws.com/a/b%20c");
    expect(objectUrl({ ...location, bucket: "my.bucket" }, at, false).href).toBe(
      "https://s3.us-west-2.amazonaws.com/my.bucket/a/b%20c",
    );
    expect(objectUrl(location, "http://10.0.0.1:9000", true).href).toBe(
      "http://10.0.0.1:9000/bucket/a/b%20c",
    );
  });
});

test("serviceEndpoint() has the suffix of each partition", async () => {
  expect(await serviceEndpoint("s3", "us-west-2")).toBe("https://s3.us-west-2.amazonaws.com");
  expect(await serviceEndpoint("s3", "cn-north-1")).toBe("https://s3.cn-north-1.amazonaws.com.cn");
  expect(await serviceEndpoint("ssm", "us-gov-west-1")).toBe("https://ssm.us-gov-west-1.amazonaws.com");
});
