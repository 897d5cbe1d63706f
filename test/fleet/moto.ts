import { afterAll, beforeAll, expect, test } from "bun:test";
import { MOST_OBJECT_BYTES } from "../../src/config/object.ts";
import { getObject } from "../../src/fleet/s3.ts";
import { fleetKey } from "../support/fleet.ts";
import { eventually } from "../support/proxied.ts";
import { S3_KEYS } from "../support/stand-ins/s3.ts";

/** The GET of the fleet's object, against an S3 that nobody here wrote: moto, which MOTO names. `make test-fleet`. */

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
