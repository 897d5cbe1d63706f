import { describe, expect, test } from "bun:test";
import { credentialsDocument, infoDocument } from "../../src/imds/documents.ts";
import type { SessionOutcome } from "../../src/sessions/types.ts";

const NOW = Date.UTC(2030, 0, 1, 12, 0, 0, 789);
const SESSION: SessionOutcome = {
  kind: "session",
  session: {
    accessKeyId: "ASIAEXAMPLE",
    secretAccessKey: "secret/with+signs=",
    sessionToken: 'token "quoted"',
    expiresAtMs: NOW + 3_600_000,
    obtainedAtMs: NOW,
  },
  publishedExpiryMs: NOW + 3_540_000,
};

describe("credentialsDocument()", () => {
  test("has exactly EC2's fields, in its order and layout, and seconds without fractions", () => {
    const answer = credentialsDocument(SESSION);
    expect(answer).toMatchObject({ status: 200, contentType: "text/plain", lastModifiedMs: NOW });
    expect(answer.body).toBe(`{
  "Code": "Success",
  "LastUpdated": "2030-01-01T12:00:00Z",
  "Type": "AWS-HMAC",
  "AccessKeyId": "ASIAEXAMPLE",
  "SecretAccessKey": "secret/with+signs=",
  "Token": "token \\"quoted\\"",
  "Expiration": "2030-01-01T12:59:00Z"
}`);
  });
  test("of a denial is 200 with EC2's code, and nothing that looks like credentials", () => {
    const answer = credentialsDocument({ kind: "denied", message: "not allowed" });
    expect(answer.status).toBe(200);
    expect(JSON.parse(answer.body)).toEqual({ Code: "AssumeRoleUnauthorizedAccess", Message: "not allowed" });
  });
  test("of a passing failure is 503", () => {
    expect(credentialsDocument({ kind: "unavailable" } as SessionOutcome).status).toBe(503);
  });
});

describe("infoDocument()", () => {
  test("is made for the substitute role, and stays the same", () => {
    const answer = infoDocument("arn:aws-us-gov:iam::842413447717:role/teams/Research", NOW);
    const info = JSON.parse(answer.body);
    expect(Object.keys(info)).toEqual(["Code", "LastUpdated", "InstanceProfileArn", "InstanceProfileId"]);
    expect(info.InstanceProfileArn).toBe("arn:aws-us-gov:iam::842413447717:instance-profile/Research");
    expect(info.InstanceProfileId).toMatch(/^AIPA[A-Z2-7]{17}$/);
    expect(infoDocument("arn:aws-us-gov:iam::842413447717:role/teams/Research", NOW).body).toBe(answer.body);
  });
  test("is absent for what is no role", () => expect(infoDocument("x", NOW).status).toBe(404));
});

test("credentialsDocument() is made anew where the published expiry has moved", () => {
  if (SESSION.kind !== "session") throw new Error("no session");
  const again = credentialsDocument({ ...SESSION, publishedExpiryMs: NOW + 60_000 });
  expect(JSON.parse(again.body)).toMatchObject({ Expiration: "2030-01-01T12:01:00Z" });
  expect(JSON.parse(credentialsDocument(SESSION).body)).toMatchObject({ Expiration: "2030-01-01T12:59:00Z" });
});

test("credentialsDocument() gives each session its own, the same one again, also where there are more than are kept", () => {
  const outcomes = Array.from(
    { length: 1_500 },
    (_, at): SessionOutcome => ({
      kind: "session",
      publishedExpiryMs: NOW + 3_600_000,
      session: {
        accessKeyId: `ASIA${at}`,
        secretAccessKey: `s${at}`,
        sessionToken: `t${at}`,
        expiresAtMs: NOW + 3_660_000,
        obtainedAtMs: NOW,
      },
    }),
  );
  for (let round = 0; round < 2; round++) {
    for (const [at, outcome] of outcomes.entries()) {
      const answer = credentialsDocument(outcome);
      expect(JSON.parse(answer.body)).toMatchObject({ AccessKeyId: `ASIA${at}`, Token: `t${at}` });
      expect(credentialsDocument(outcome)).toBe(answer);
    }
  }
});
