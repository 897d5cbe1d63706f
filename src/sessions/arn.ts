const ROLE_ARN = /^arn:(aws[a-z-]*):iam::(\d{12}):role\/((?:[\w+=,.@-]+\/)*)([\w+=,.@-]{1,64})$/;

/** The parts of a role's ARN. */
export interface RoleArn {
  /** `aws`, `aws-cn`, `aws-us-gov`, … */
  readonly partition: string;
  /** Twelve digits. */
  readonly account: string;
  /** The path between `role/` and the name: empty, or ending in a slash. */
  readonly path: string;
  /** What the metadata service lists, and what `sts get-caller-identity` shows: the name without its path. */
  readonly name: string;
}

/** Parses `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`; null where it is no such ARN. */
export function parseRoleArn(text: string): RoleArn | null {
  const parts = ROLE_ARN.exec(text);
  if (parts === null) return null;
  const [, partition = "", account = "", path = "", name = ""] = parts;
  return { partition, account, path, name };
}

/** Whether the text is the ARN of an IAM role. */
export const isRoleArn = (text: string): boolean => parseRoleArn(text) !== null;
