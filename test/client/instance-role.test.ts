import { describe, expect, test } from "bun:test";
import { arnOf } from "../../src/client/instance-role.ts";

const document = (fields: object) =>
  JSON.stringify({ accountId: "842413447717", region: "us-west-2", ...fields });

describe("arnOf()", () => {
  const cases: [region: string, partition: string][] = [
    ["us-west-2", "aws"],
    ["cn-north-1", "aws-cn"],
    ["us-gov-west-1", "aws-us-gov"],
    ["us-iso-east-1", "aws-iso"],
    ["us-isob-east-1", "aws-iso-b"],
    ["eusc-de-east-1", "aws-eusc"],
  ];
  for (const [region, partition] of cases) {
    test(`${region} is in ${partition}`, () =>
      expect(arnOf("Node", document({ region }))).toBe(`arn:${partition}:iam::842413447717:role/Node`));
  }
  const bad: [name: string, role: string, document: string][] = [
    ["a document that is none", "Node", "<html>"],
    ["a document that is null", "Node", "null"],
    ["no account", "Node", "{}"],
    ["an account that is none", "Node", document({ accountId: "1" })],
    ["a role that is none", "<html>", document({})],
    ["no role", "", document({})],
  ];
  for (const [name, role, text] of bad) test(`null for ${name}`, () => expect(arnOf(role, text)).toBeNull());
});
