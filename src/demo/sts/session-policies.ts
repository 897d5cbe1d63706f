import type { RoleArn } from "../../sessions/arn.ts";
import { members } from "./members.ts";

/**
 * Session policies as STS takes them (STS API reference, AssumeRole: Policy, PolicyArns): at most ten ARNs of managed policies, of
 * AWS's or of the role's own account, and 2,048 characters with the inline policy together.
 */

/** What is wrong with the session policies of a request: AWS's code and message. */
export interface PolicyFault {
  readonly code: "ValidationError" | "MalformedPolicyDocument" | "PackedPolicyTooLarge";
  readonly message: string;
}

const MOST_ARNS = 10;
const MOST_CHARACTERS = 2_048;

/** The session policies of a request. */
export interface SessionPolicies {
  readonly arns: readonly string[];
  readonly inline: string | undefined;
  /** How full the packed form is, in percent. How AWS packs is not documented: here it is the share of the characters. */
  readonly packedPercent: number;
}

/** Reads and checks the session policies of a request for this role. */
export function sessionPolicies(
  parameters: Readonly<Record<string, string>>,
  role: RoleArn,
): SessionPolicies | PolicyFault {
  const arns = members(parameters, "PolicyArns", ".arn");
  const inline = parameters["Policy"];
  if (arns.length > MOST_ARNS) {
    const constraint = `Member must have length less than or equal to ${MOST_ARNS}`;
    return {
      code: "ValidationError",
      message: `1 validation error detected: Value '[${arns.join(", ")}]' at 'policyArns' failed to satisfy constraint: ${constraint}`,
    };
  }
  for (const arn of arns) {
    const [, partition, account] = /^arn:([a-z-]+):iam::(aws|\d{12}):policy\/\S+$/.exec(arn) ?? [];
    const isOfRole = partition === role.partition && (account === "aws" || account === role.account);
    // "The policies must exist in the same account as the role." The code is a guess.
    if (!isOfRole) return { code: "ValidationError", message: `${arn} is invalid` };
  }
  if (inline !== undefined && !isDocument(inline))
    return { code: "MalformedPolicyDocument", message: "The policy is not in the valid JSON format." };
  const characters = arns.join("").length + (inline?.length ?? 0);
  const packedPercent = Math.ceil((100 * characters) / MOST_CHARACTERS);
  if (characters > MOST_CHARACTERS) {
    return {
      code: "PackedPolicyTooLarge",
      message: `Packed policy consumes ${packedPercent}% of allotted space, please use smaller policy.`,
    };
  }
  return { arns, inline, packedPercent };
}

function isDocument(text: string): boolean {
  try {
    return Array.isArray((JSON.parse(text) as { Statement?: unknown } | null)?.Statement);
  } catch {
    return false;
  }
}

/** Whether an inline session policy denies everything. Nothing else of it is evaluated. */
export function deniesAll(policy: string | undefined): boolean {
  if (policy === undefined) return false;
  const { Statement } = JSON.parse(policy) as { Statement: readonly Readonly<Record<string, unknown>>[] };
  return Statement.some(
    ({ Effect, Action, Resource }) => Effect === "Deny" && Action === "*" && Resource === "*",
  );
}
