import { afterAll, beforeAll, expect, test } from "bun:test";
import { MOST_OBJECT_BYTES } from "../../src/config/object.ts";
import { getObject } from "../../src/fleet/s3.ts";
import { getParameter } from "../../src/fleet/ssm.ts";
import { fleetKey } from "../support/fleet.ts";
import { eventually } from "../support/proxied.ts";
import { S3_KEYS } from "../support/stand-ins/s3.ts";

/** How the fleet's object is fetched, from an S3 and an SSM that nobody here wrote: moto, which MOTO names. `make test-fleet`. */

const PORT = 15_987;
const endpoint = `http://127.0.0.1:${PORT}`;
const AUTHORIZATION =
  "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

let server: ReturnType<typeof Bun.spawn>;
beforeAll(async () => {
  const program = process.env["MOTO"];
  if (program === undefined) throw new Error("MOTO does not name moto_server: make test-fleet");
  server = Bun.spawn([program, "-p", String(PORT)], { stdout: "ignore", stderr: "ignore" });
  await eventually("moto answers", async () =>
    fetch(`${endpoint}/moto-api/`).then(
      ({ ok }) => ok,
      () => false,
    ),
  );
  await put("", "");
});
afterAll(async () => {
  server.kill();
  await server.exited;
});

async function put(path: string, body: string): Promise<void> {
  const url = `${endpoint}/bucket${path}`;
  const { ok, status } = await fetch(url, { method: "PUT", body, headers: { Authorization: AUTHORIZATION } });
  if (!ok) throw new Error(`PUT ${url}: ${status}`);
}

const asking = (key: string, etag: string | null = null) =>
  getObject({
    location: { bucket: "bucket", key },
    region: "us-west-2",
    endpoint,
    credentials: S3_KEYS,
    etag,
    mostBytes: MOST_OBJECT_BYTES,
  });

test("moto gives the object, says that it has not changed, and gives the next one", async () => {
  const { sign } = fleetKey();
  const object = sign(1, "role: arn:aws:iam::842413447717:role/One\n");
  await put("/a%20b/rules%2B1.yaml", object);
  const first = await asking("a b/rules+1.yaml");
  if (first.kind !== "found") throw new Error(JSON.stringify(first));
  expect(Buffer.from(first.bytes).toString()).toBe(object);
  expect(await asking("a b/rules+1.yaml", first.etag)).toEqual({ kind: "unchanged" });
  await put("/a%20b/rules%2B1.yaml", sign(2, "role: arn:aws:iam::842413447717:role/Two\n"));
  const next = await asking("a b/rules+1.yaml", first.etag);
  expect(next.kind === "found" && next.etag !== first.etag).toBe(true);
});

test("moto says what is missing, and an object of more than 1 MiB is not read to its end", async () => {
  expect(await asking("none.yaml")).toMatchObject({ why: "there is no such object (status 404, NoSuchKey)" });
  await put("/large.yaml", "x".repeat(MOST_OBJECT_BYTES + 1));
  expect(await asking("large.yaml")).toMatchObject({ why: "the object has more than 1048576 bytes" });
});

/** What an administrator does: `aws ssm put-parameter`. */
async function putParameter(Name: string, Type: "String" | "SecureString", Value: string): Promise<void> {
  const { ok, status } = await fetch(endpoint, {
    method: "POST",
    headers: {
      Authorization: AUTHORIZATION.replaceAll("/s3/", "/ssm/").replace("us-east-1", "us-west-2"),
      "Content-Type": "application/x-amz-json-1.1",
      "X-Amz-Target": "AmazonSSM.PutParameter",
    },
    body: JSON.stringify({ Name, Type, Value, Overwrite: true, Tier: "Advanced" }),
  });
  if (!ok) throw new Error(`PutParameter: ${status}`);
}

test("moto's SSM gives a parameter, decrypted, as it was put there, and the next one; and says what is missing", async () => {
  const { sign } = fleetKey();
  const parameter = (name: string) =>
    getParameter({
      location: { parameter: name, region: null },
      region: "us-west-2",
      endpoint,
      credentials: S3_KEYS,
    });
  for (const type of ["String", "SecureString"] as const) {
    for (const serial of [1, 2]) {
      const object = sign(
        serial,
        `# ${"é".repeat(3_000)}\nrole: arn:aws:iam::842413447717:role/R${serial}\n`,
      );
      await putParameter(`/imdsproxy/${type}`, type, object);
      const found = await parameter(`/imdsproxy/${type}`);
      expect(found.kind === "found" && Buffer.from(found.bytes).toString()).toBe(object);
    }
  }
  expect(await parameter("/imdsproxy/none")).toMatchObject({
    why: "there is no such parameter in us-west-2 (status 400, ParameterNotFound)",
  });
});
