import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { createInstanceSecrets } from "../../src/demo/imds/secrets.ts";
import { createTokenMint } from "../../src/demo/imds/tokens.ts";
import { DEFAULT_FACTS } from "../../src/demo/imds/tree.ts";
import { rawHttp } from "../support/raw-http.ts";
import { startFaultyImds } from "../support/stand-ins/imds.ts";
import { readings } from "../support/stand-ins/liberal.ts";

const secrets = createInstanceSecrets();
const imds = startFaultyImds({ listen: [{ address: "127.0.0.1", port: 0 }], secrets });
const endpoint = () => imds.endpoints()[0] ?? { address: "", port: 0 };
afterAll(() => imds.stop());
beforeEach(() => imds.set({ tokens: "optional", liberal: false, fault: "none", delayMs: 0 }));

const ask = (method: string, target: string, headers: Record<string, string> = {}) =>
  rawHttp(endpoint(), `${method} ${target} HTTP/1.1`, {
    Host: "169.254.169.254",
    ...headers,
  });
const TTL = "X-aws-ec2-metadata-token-ttl-seconds";
const ROLE_PATH = `/latest/meta-data/iam/security-credentials/${DEFAULT_FACTS.roleName}`;

describe("the IMDS stand-in's tokens", () => {
  test("are 56 characters of text/plain, and their time to live is echoed", async () => {
    const answer = await ask("PUT", "/latest/api/token", { [TTL]: "60" });
    expect(answer.status).toBe(200);
    expect(answer.body).toMatch(/^[A-Za-z0-9+/=]{56}$/);
    expect(answer.headers.get(TTL)).toBe("60");
    expect(answer.headers.get("content-type")).toBe("text/plain");
    expect(answer.headers.get("server")).toBe("EC2ws");
  });

  const refusals: [status: number, method: string, target: string, headers: Record<string, string>][] = [
    [400, "PUT", "/latest/api/token", {}],
    [400, "PUT", "/latest/api/token", { [TTL]: "0" }],
    [400, "PUT", "/latest/api/token", { [TTL]: "21601" }],
    [400, "PUT", "/latest/api/token", { [TTL]: "60.5" }],
    [403, "PUT", "/latest/api/token", { [TTL]: "60", "X-Forwarded-For": "10.0.0.1" }],
    [417, "PUT", "/latest/api/token", { [TTL]: "60", Expect: "100-continue" }],
    [403, "PUT", "/2021-03-23/api/token", { [TTL]: "60" }],
    [405, "GET", "/latest/api/token", {}],
    [405, "POST", "/latest/api/token", { [TTL]: "60" }],
  ];
  for (const [status, method, target, headers] of refusals) {
    test(`${method} ${target} ${JSON.stringify(headers)} is ${status}`, async () => {
      const answer = await ask(method, target, headers);
      expect(answer.status).toBe(status);
      if (status === 405) expect(answer.headers.get("allow")).toBe("OPTIONS, PUT");
      else expect(answer.body).toContain(`<title>${status} - `);
    });
  }

  test("are required where the mode says so, and a foreign one never helps", async () => {
    imds.set({ tokens: "required" });
    expect((await ask("GET", ROLE_PATH)).status).toBe(401);
    const { body: token } = await ask("PUT", "/latest/api/token", { [TTL]: "60" });
    const good = await ask("GET", ROLE_PATH, { "X-aws-ec2-metadata-token": token });
    expect(good.status).toBe(200);
    expect(Number(good.headers.get(TTL))).toBeLessThanOrEqual(60);
    imds.set({ tokens: "optional" });
    const foreign = createTokenMint("another key").issue(60, Date.now());
    expect((await ask("GET", ROLE_PATH, { "X-aws-ec2-metadata-token": foreign })).status).toBe(401);
  });

  test("end when their time does", () => {
    const mint = createTokenMint("key");
    const token = mint.issue(60, 1_000_000);
    expect(mint.secondsLeft(token, 1_000_000)).toBe(60);
    expect(mint.secondsLeft(token, 1_059_999)).toBe(0);
    expect(mint.secondsLeft(token, 1_060_000)).toBeNull();
  });
});

describe("the IMDS stand-in's metadata", () => {
  test("role credentials have exactly the seven fields of EC2, with the marked secrets", async () => {
    const { body } = await ask("GET", ROLE_PATH);
    const fields = ["Code", "LastUpdated", "Type", "AccessKeyId", "SecretAccessKey", "Token", "Expiration"];
    expect(Object.keys(JSON.parse(body))).toEqual(fields);
    expect(JSON.parse(body).SecretAccessKey).toBe(secrets.role.secretAccessKey);
    expect(JSON.parse(body).Expiration).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  });

  const bodies: [target: string, body: string][] = [
    ["/latest/meta-data/iam/security-credentials", DEFAULT_FACTS.roleName],
    ["/latest/meta-data/iam/security-credentials/", DEFAULT_FACTS.roleName],
    ["/2021-03-23/meta-data//placement///region/", DEFAULT_FACTS.region],
    ["/latest", "dynamic/\nmeta-data/\nuser-data"],
    ["/latest/meta-data/public-keys/", "0=my-public-key"],
    ["/latest/meta-data/tags/instance", "Name\nteam"],
  ];
  for (const [target, body] of bodies) {
    test(`GET ${target} is 200`, async () => {
      expect(await ask("GET", target)).toMatchObject({ status: 200, body });
    });
  }

  test("HEAD has the length and no body", async () => {
    const answer = await ask("HEAD", "/latest/meta-data/instance-id");
    expect([answer.headers.get("content-length"), answer.body]).toEqual(["19", ""]);
  });

  for (const target of [
    "/latest/meta-data/spot/instance-action",
    "/latest/meta-data/IAM/info",
    "/nonsense",
    `${ROLE_PATH}%20`,
  ]) {
    test(`GET ${target} is 404, with EC2's page`, async () => {
      const answer = await ask("GET", target);
      expect(answer.status).toBe(404);
      expect(answer.body).toContain("<title>404 - Not Found</title>");
      expect(answer.headers.get("content-type")).toBe("text/html");
    });
  }

  test("the log has method, target, headers and peer of each request", async () => {
    imds.clearLog();
    await ask("GET", "/latest//x?y", { "X-Odd": "1" });
    const [entry] = imds.log();
    expect(entry).toMatchObject({
      method: "GET",
      target: "/latest//x?y",
      peer: { address: "127.0.0.1" },
      status: 404,
    });
    expect(entry?.headers).toContainEqual(["X-Odd", "1"]);
  });
});

describe("the liberal IMDS stand-in", () => {
  const spellings = [
    "/latest/meta-data/iam/%73ecurity-credentials/",
    "/x/../latest/meta-data/iam/security%252dcredentials/x",
    "/latest/meta-data/placement/..%2f..%2fmeta-data/iam/security-credentials/",
    "/LATEST/META-DATA/IAM/SECURITY-CREDENTIALS/x",
    "\\latest\\meta-data\\iam\\security-credentials\\x",
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/x",
    "/latest/meta-data/placement/region?x=/latest/user-data",
    "/latest/user-data",
    "/latest/user%u002ddata",
    "/latest/dynamic/instance-identity/pkcs7;x",
  ];
  for (const target of spellings) {
    test(`gives a secret for ${target}`, async () => {
      imds.set({ liberal: true });
      expect((await ask("GET", target)).body).toContain(secrets.marker);
    });
  }

  test("still answers honest requests as before", async () => {
    imds.set({ liberal: true });
    expect((await ask("GET", "/latest/meta-data/placement/region")).body).toBe("us-west-2");
    expect((await ask("GET", "/latest/meta-data/iam/security-credentials/")).body).toBe(
      DEFAULT_FACTS.roleName,
    );
  });

  test("comes to an end on hostile input", () => {
    expect([...readings([`/${"%25".repeat(200)}${"../".repeat(50)}`])].length).toBeLessThan(5000);
  });
});

describe("the IMDS stand-in's faults", () => {
  test("error is 503, drop cuts, refuse refuses, and each can be taken back", async () => {
    imds.set({ fault: "error" });
    expect((await ask("GET", "/latest")).status).toBe(503);
    imds.set({ fault: "drop" });
    await expect(ask("GET", "/latest")).rejects.toThrow();
    imds.set({ fault: "refuse" });
    await expect(ask("GET", "/latest")).rejects.toThrow();
    imds.set({ fault: "none" });
    expect((await ask("GET", "/latest")).status).toBe(200);
  });
});
