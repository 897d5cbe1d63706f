import type { SessionRequest } from "./types.ts";

/** One statement of an IAM policy, with its keys in the usual order. */
export interface PolicyStatement {
  readonly Effect: "Allow";
  readonly Principal?: { readonly AWS: string };
  readonly Action: string | readonly string[];
  readonly Resource?: string | readonly string[];
  readonly Condition?: Readonly<Record<string, Readonly<Record<string, string | readonly string[]>>>>;
}

/** The most likely cause of an AccessDenied of AssumeRole. */
export type DenialCause =
  /** The permissions of the node's role do not allow it. */
  | "permission"
  /** The trust policy of the requested role does not allow it. */
  | "trust"
  /** A policy denies it explicitly: a service control policy, a permissions boundary or a Deny statement. */
  | "explicit-deny"
  /** STS does not say. It gives the same answer for a role that does not exist. */
  | "unknown";

export interface DenialExplanation {
  readonly cause: DenialCause;
  /** A text of several lines for the administrator: the cause and both statements. */
  readonly text: string;
  /** The statement that the trust policy of the requested role needs. */
  readonly trust: PolicyStatement;
  /** The statement that the permissions of the node's role need. */
  readonly permission: PolicyStatement;
}

/** Tags and a source identity need additional permissions on both sides (IAM User Guide, "Pass session tags in AWS STS"). */
function actions(request: SessionRequest): string | readonly string[] {
  const all = ["sts:AssumeRole"];
  if (request.tags.length > 0) all.push("sts:TagSession");
  if (request.sourceIdentity !== null) all.push("sts:SetSourceIdentity");
  return all.length === 1 ? "sts:AssumeRole" : all;
}

function partitionOf(roleArn: string): string {
  return roleArn.split(":")[1] || "aws";
}

/**
 * The statement that the trust policy of the requested role needs.
 *
 * @param instanceRoleArn the node's role, `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`; null puts a placeholder there.
 * @param condition default: the external id alone, if the request has one.
 */
export function trustStatement(
  request: SessionRequest,
  instanceRoleArn: string | null,
  condition: PolicyStatement["Condition"] = request.externalId === null
    ? {}
    : { StringEquals: { "sts:ExternalId": request.externalId } },
): PolicyStatement {
  const principal =
    instanceRoleArn ?? `arn:${partitionOf(request.roleArn)}:iam::ACCOUNT:role/ROLE-OF-THIS-NODE`;
  return {
    Effect: "Allow",
    Principal: { AWS: principal },
    Action: actions(request),
    ...(Object.keys(condition).length === 0 ? {} : { Condition: condition }),
  };
}

/** The statement that the permissions of the node's role need. */
export function permissionStatement(request: SessionRequest): PolicyStatement {
  return { Effect: "Allow", Action: actions(request), Resource: request.roleArn };
}

/**
 * The ARN of the node's role, from STS's message "User: arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION is not authorized …";
 * null where the message has no such part. The message lacks the role's path, which a trust policy needs: prefer the ARN that IAM
 * reports where it is known.
 */
export function instanceRoleIn(stsMessage: string): string | null {
  const found = /\barn:(aws[a-z-]*):sts::(\d{12}):assumed-role\/([\w+=,.@-]+)\//.exec(stsMessage);
  return found === null ? null : `arn:${found[1]}:iam::${found[2]}:role/${found[3]}`;
}

/**
 * Finds the cause in STS's message. "Troubleshoot access denied error messages" (IAM User Guide) documents the wording for the
 * policy types that support it. STS often leaves the reason out.
 */
export function denialCause(stsMessage: string): DenialCause {
  if (/explicit deny/i.test(stsMessage)) return "explicit-deny";
  if (/no (identity-based|permissions boundary|session) policy allows/i.test(stsMessage)) return "permission";
  if (/no (resource-based|role trust) policy allows/i.test(stsMessage)) return "trust";
  return "unknown";
}

const CAUSES: Record<DenialCause, string> = {
  permission: "The node's role has no permission to assume it.",
  trust: "The role's trust policy does not name the node's role.",
  "explicit-deny":
    "A policy forbids it outright (a service control policy, a permissions boundary, or a Deny statement); no further Allow will help.",
  unknown:
    "STS does not say why: the trust policy or the permission is missing, or there is no such role. STS gives the same answer for each of these.",
};

/**
 * Explains an AccessDenied of AssumeRole to an administrator, with the statements to add on either side. It names the node's
 * role, so callers must not see it.
 *
 * @param instanceRoleArn the node's role where known; else it is taken from STS's message, else a placeholder.
 * @param stsMessage what STS said, or null where it is not known.
 */
export function explainDenial(
  request: SessionRequest,
  instanceRoleArn: string | null,
  stsMessage: string | null = null,
): DenialExplanation {
  const said = stsMessage ?? "";
  const cause = denialCause(said);
  const named = instanceRoleArn ?? instanceRoleIn(said);
  // The text is logged, and some use the external id as a shared secret.
  const shown = request.externalId === null ? request : { ...request, externalId: "EXTERNAL-ID" };
  const trust = trustStatement(shown, named);
  const permission = permissionStatement(request);
  const pathless = instanceRoleArn === null && named !== null ? " (add the role's path if it has one)" : "";
  const lines = [
    `STS refuses to assume ${request.roleArn}${named === null ? "" : ` for ${named}`}.`,
    CAUSES[cause],
    `The trust policy of ${request.roleArn} needs this statement${pathless}:`,
    JSON.stringify(trust, null, 2),
    `The permissions of ${named ?? "the node's role"} need this statement:`,
    JSON.stringify(permission, null, 2),
  ];
  return { cause, text: lines.join("\n"), trust, permission };
}
