import { ImdsProxyError } from "../errors.ts";
import { askMetadata } from "./metadata-address.ts";

/** Milliseconds that the metadata service has for each answer. */
const TIMEOUT_MS = 1_000;

/**
 * The ARN of the node's own role, without the role's path, which the metadata service does not tell. Only root may ask: everybody else is
 * answered by the proxy, with the role that they get.
 *
 * @returns null where this process is not root's, or no metadata service tells.
 */
export async function instanceRoleArn(): Promise<string | null> {
  if (process.geteuid?.() !== 0) return null;
  try {
    const list = await askMetadata("/latest/meta-data/iam/security-credentials/", { timeoutMs: TIMEOUT_MS });
    const document = await askMetadata("/latest/dynamic/instance-identity/document", {
      timeoutMs: TIMEOUT_MS,
    });
    if (list.status !== 200 || document.status !== 200) return null;
    return arnOf(list.body.split("\n")[0]?.trim() ?? "", document.body);
  } catch (error) {
    if (error instanceof ImdsProxyError) return null;
    throw error;
  }
}

/**
 * Puts the ARN together. Pure.
 *
 * @param document the instance identity document (Amazon EC2 User Guide, "Instance identity documents").
 */
export function arnOf(role: string, document: string): string | null {
  let fields: { accountId?: unknown; region?: unknown } | null;
  try {
    fields = JSON.parse(document) as typeof fields;
  } catch {
    return null;
  }
  const { accountId, region } = fields ?? {};
  if (typeof accountId !== "string" || !/^\d{12}$/.test(accountId) || typeof region !== "string") return null;
  if (!/^[\w+=,.@-]{1,64}$/.test(role)) return null;
  const partition = PARTITIONS.find(([prefix]) => region.startsWith(prefix))?.[1] ?? "aws";
  return `arn:${partition}:iam::${accountId}:role/${role}`;
}

/** Partitions by how the names of their regions begin (AWS General Reference, "ARNs"; botocore's endpoints.json). */
const PARTITIONS: readonly (readonly [prefix: string, partition: string])[] = [
  ["cn-", "aws-cn"],
  ["us-gov-", "aws-us-gov"],
  ["us-isob-", "aws-iso-b"],
  ["us-isof-", "aws-iso-f"],
  ["us-iso-", "aws-iso"],
  ["eu-isoe-", "aws-iso-e"],
  ["eusc-", "aws-eusc"],
];
