import type { Source } from "../../config/remote.ts";

/** What the node's role must be allowed to fetch the fleet's object, and nothing else of the bucket or of SSM. Pure. */

export interface ObjectStatement {
  readonly Effect: "Allow";
  readonly Action: "s3:GetObject" | "ssm:GetParameter";
  readonly Resource: string;
}

/**
 * @param where the partition, `aws` for instance, and what is known of a parameter's place without its ARN: its region and account;
 *   null where it is not known, which allows any.
 */
export function objectStatement(
  source: Source,
  where: { readonly partition: string; readonly region: string | null; readonly account: string | null },
): ObjectStatement {
  if ("bucket" in source) {
    const name = literal(`${source.bucket}/${source.key}`);
    return { Effect: "Allow", Action: "s3:GetObject", Resource: `arn:${where.partition}:s3:::${name}` };
  }
  const { parameter } = source;
  const arn = parameter.startsWith("arn:")
    ? parameter
    : `arn:${where.partition}:ssm:${where.region ?? "*"}:${where.account ?? "*"}:parameter/${parameter.replace(/^\//, "")}`;
  return { Effect: "Allow", Action: "ssm:GetParameter", Resource: arn };
}

/** Escapes wildcards and `$`, which a policy would interpret (IAM User Guide, "Policy variables", special characters). */
const literal = (text: string): string => text.replaceAll(/[*?$]/g, (one) => `\${${one}}`);
