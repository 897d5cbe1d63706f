import { describe, expect, test } from "bun:test";
import { deniesAll, sessionPolicies } from "../../../src/demo/sts/session-policies.ts";
import { parseRoleArn } from "../../../src/sessions/arn.ts";

const role = parseRoleArn("arn:aws:iam::842413447717:role/Lake");
if (role === null) throw new Error("no role");
const policy = (name: string) => `arn:aws:iam::842413447717:policy/${name}`;
const read = (arns: readonly string[], inline?: string) =>
  sessionPolicies(
    {
      ...Object.fromEntries(arns.map((arn, i) => [`PolicyArns.member.${i + 1}.arn`, arn])),
      ...(inline === undefined ? {} : { Policy: inline }),
    },
    role,
  );
const many = (count: number) => Array.from({ length: count }, (_, i) => policy(`P${i}`));

describe("the stand-in for STS takes session policies", () => {
  test("up to ten, in their order, and says how full they are", () => {
    expect(read([])).toEqual({ arns: [], inline: undefined, packedPercent: 0 });
    expect(read(many(10))).toMatchObject({ arns: many(10), packedPercent: 18 });
  });
  test.each([
    ["an eleventh", read(many(11)), "ValidationError", "Member must have length less than or equal to 10"],
    ["one of another account", read(["arn:aws:iam::111111111111:policy/P"]), "ValidationError", "is invalid"],
    ["one of another partition", read(["arn:aws-cn:iam::aws:policy/P"]), "ValidationError", "is invalid"],
    ["what is no policy", read(["P"]), "ValidationError", "P is invalid"],
    [
      "an inline policy that is none",
      read([], "{}"),
      "MalformedPolicyDocument",
      "not in the valid JSON format",
    ],
    [
      "more than 2,048 characters together",
      read([policy("x".repeat(1_000))], JSON.stringify({ Statement: [], Id: "y".repeat(1_000) })),
      "PackedPolicyTooLarge",
      "Packed policy consumes 101% of allotted space",
    ],
  ])("but not %s", (_, found, code, message) =>
    expect(found).toEqual({ code, message: expect.stringContaining(message) } as never),
  );
});

test("a session whose policy denies everything is denied", () => {
  expect(deniesAll(undefined)).toBe(false);
  expect(deniesAll('{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}')).toBe(false);
  expect(deniesAll('{"Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}')).toBe(true);
});
