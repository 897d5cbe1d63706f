import { describe, expect, test } from "bun:test";
import {
  type PolicyDocument,
  permissionsResource,
  permissionsTemplate,
  trustResources,
  trustTemplate,
} from "../../src/cli/iam/formats.ts";

const DOCUMENT: PolicyDocument = {
  Version: "2012-10-17",
  Statement: [
    { Effect: "Allow", Action: "sts:AssumeRole", Condition: { StringLike: { "sts:RoleSessionName": "a*" } } },
  ],
};
const roles = ["arn:aws:iam::842413447717:role/hpc/Data-Eng", "arn:aws:iam::842413447717:role/DataEng"].map(
  (roleArn) => ({ roleArn, document: DOCUMENT }),
);

/** What stands in `jsonencode(…)`, with Terraform's templates undone. */
function encoded(text: string): unknown {
  const [, body = ""] = /jsonencode\(([\s\S]*?)\)\n\}/.exec(text) ?? [];
  return JSON.parse(body.replaceAll("$${", () => "${").replaceAll("%%{", "%{"));
}

describe("CloudFormation", () => {
  test("has each role by its name and path, under names that differ", () => {
    const { Resources } = JSON.parse(trustTemplate(roles));
    expect(Object.keys(Resources)).toEqual(["Role1DataEng", "Role2DataEng"]);
    expect(Resources.Role1DataEng).toEqual({
      Type: "AWS::IAM::Role",
      Properties: { RoleName: "Data-Eng", Path: "/hpc/", AssumeRolePolicyDocument: DOCUMENT },
    });
    expect(Resources.Role2DataEng.Properties.Path).toBe("/");
  });
  test("asks for the node's role where it is not known", () => {
    const asked = JSON.parse(permissionsTemplate(DOCUMENT, null));
    expect(asked.Parameters).toHaveProperty("NodeRoleName");
    expect(asked.Resources.AssumeSubstituteRoles.Properties.RoleName).toEqual({ Ref: "NodeRoleName" });
    const known = JSON.parse(permissionsTemplate(DOCUMENT, "Node"));
    expect(known).not.toHaveProperty("Parameters");
    expect(known.Resources.AssumeSubstituteRoles.Properties).toMatchObject({
      RoleName: "Node",
      PolicyDocument: DOCUMENT,
    });
  });
});

describe("Terraform", () => {
  test("has each role with its document", () => {
    const text = trustResources(roles);
    expect([...text.matchAll(/^resource "aws_iam_role" "(\w+)" \{$/gm)].map(([, name]) => name)).toEqual([
      "Role1DataEng",
      "Role2DataEng",
    ]);
    expect(text).toContain('name = "Data-Eng"');
    expect(encoded(text)).toEqual(DOCUMENT);
  });
  test("leaves nothing that Terraform would take for a template of its own", () => {
    const document = { ...DOCUMENT, Statement: [{ Resource: `${"$"}{aws:username} %{ if }` }] };
    const text = permissionsResource(document, null);
    expect(text).toContain(`${"$$"}{aws:username} %%{ if }`);
    expect(encoded(text)).toEqual(document);
    expect(text).toContain("role = var.node_role_name");
    expect(permissionsResource(document, "Node")).toContain('role = "Node"');
  });
});
