import { describe, expect, test } from "bun:test";
import { objectStatement } from "../../src/cli/iam/object-statement.ts";
import { parseSource } from "../../src/config/remote.ts";

const UNKNOWN = { partition: "aws", region: null, account: null };
const KNOWN = { partition: "aws-cn", region: "cn-north-1", account: "123456789012" };

function of(text: string, where: Parameters<typeof objectStatement>[1]): string {
  const source = parseSource(text);
  if (source === null) throw new Error(text);
  const { Action, Resource } = objectStatement(source, where);
  return `${Action} ${Resource}`;
}

describe("objectStatement()", () => {
  test("allows one object of the bucket", () => {
    expect(of("s3://bucket/a b/rules.yaml", KNOWN)).toBe(
      "s3:GetObject arn:aws-cn:s3:::bucket/a b/rules.yaml",
    );
  });
  test("allows no other object where the key has what a policy takes for any character, or for a variable", () => {
    expect(of(`s3://bucket/*/a?/\${aws:userid}`, UNKNOWN)).toBe(
      `s3:GetObject arn:aws:s3:::bucket/\${*}/a\${?}/\${$}{aws:userid}`,
    );
  });
  test("allows one parameter, of the region and account that are known", () => {
    expect(of("ssm:/imdsproxy/rules", KNOWN)).toBe(
      "ssm:GetParameter arn:aws-cn:ssm:cn-north-1:123456789012:parameter/imdsproxy/rules",
    );
    expect(of("ssm:rules", UNKNOWN)).toBe("ssm:GetParameter arn:aws:ssm:*:*:parameter/rules");
    const arn = "arn:aws:ssm:eu-west-1:210987654321:parameter/imdsproxy/rules";
    expect(of(`ssm:${arn}`, KNOWN)).toBe(`ssm:GetParameter ${arn}`);
  });
});
