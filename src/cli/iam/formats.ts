import { parseRoleArn } from "../../sessions/arn.ts";

/**
 * IAM policies in the formats that people deploy: CloudFormation in JSON, and Terraform's own language. Linters check both:
 * `make test-iam`.
 */

/** One policy document. */
export interface PolicyDocument {
  readonly Version: "2012-10-17";
  readonly Statement: readonly object[];
}

/** The formats that `--format` takes. */
export const FORMATS = ["json", "cloudformation", "terraform"] as const;
export type Format = (typeof FORMATS)[number];

/** A role, and the document of its trust policy. */
export interface TrustedRole {
  readonly roleArn: string;
  readonly document: PolicyDocument;
}

const DESCRIPTION = "Made by imdsproxy iam; see its documentation for what each statement is for";
/** A name that CloudFormation (letters and digits) and Terraform (also `_`) accept, unique by its number. */
const logicalName = (name: string, index: number): string =>
  `Role${index + 1}${name.replaceAll(/[^A-Za-z0-9]/g, "")}`;

const withoutSlash = (path: string) => (path === "" ? "/" : `/${path}`);

const json = (value: unknown): string => JSON.stringify(value, null, 2);

/** A template with the roles. The administrator adds what the roles may do. */
export function trustTemplate(roles: readonly TrustedRole[]): string {
  return json({
    AWSTemplateFormatVersion: "2010-09-09",
    Description: DESCRIPTION,
    Resources: Object.fromEntries(
      roles.map(({ roleArn, document }, index) => {
        const role = parseRoleArn(roleArn);
        return [
          logicalName(role?.name ?? "", index),
          {
            Type: "AWS::IAM::Role",
            Properties: {
              RoleName: role?.name,
              Path: withoutSlash(role?.path ?? ""),
              AssumeRolePolicyDocument: document,
            },
          },
        ];
      }),
    ),
  });
}

/** A template that gives the node's role its permissions. @param nodeRole the role's name; null asks for it as a parameter. */
export function permissionsTemplate(document: PolicyDocument, nodeRole: string | null): string {
  return json({
    AWSTemplateFormatVersion: "2010-09-09",
    Description: DESCRIPTION,
    ...(nodeRole === null
      ? { Parameters: { NodeRoleName: { Type: "String", Description: "The name of the role of the nodes" } } }
      : {}),
    Resources: {
      AssumeSubstituteRoles: {
        Type: "AWS::IAM::RolePolicy",
        Properties: {
          RoleName: nodeRole ?? { Ref: "NodeRoleName" },
          PolicyName: "imdsproxy-assume-role",
          PolicyDocument: document,
        },
      },
    },
  });
}

/** A value in Terraform's language: JSON, with `${` and `%{` escaped, which begin a template in a string of Terraform's. */
const expression = (value: unknown, indent: string): string =>
  json(value)
    .replaceAll("${", () => "$${")
    .replaceAll("%{", "%%{")
    .replaceAll("\n", `\n${indent}`);

/** Terraform's `aws_iam_role` for each role. */
export function trustResources(roles: readonly TrustedRole[]): string {
  return roles
    .map(({ roleArn, document }, index) => {
      const role = parseRoleArn(roleArn);
      return [
        `resource "aws_iam_role" "${logicalName(role?.name ?? "", index)}" {`,
        `  name = ${expression(role?.name ?? "", "  ")}`,
        `  path = ${expression(withoutSlash(role?.path ?? ""), "  ")}`,
        `  assume_role_policy = jsonencode(${expression(document, "  ")})`,
        "}",
      ].join("\n");
    })
    .join("\n\n");
}

/** Terraform's `aws_iam_role_policy` for the node's role. @param nodeRole the role's name; null asks for it as a variable. */
export function permissionsResource(document: PolicyDocument, nodeRole: string | null): string {
  const variable = [
    'variable "node_role_name" {',
    "  type        = string",
    '  description = "The name of the role of the nodes"',
    "}",
    "",
  ];
  return [
    ...(nodeRole === null ? variable : []),
    'resource "aws_iam_role_policy" "imdsproxy_assume_role" {',
    '  name = "imdsproxy-assume-role"',
    `  role = ${nodeRole === null ? "var.node_role_name" : expression(nodeRole, "  ")}`,
    `  policy = jsonencode(${expression(document, "  ")})`,
    "}",
  ].join("\n");
}
