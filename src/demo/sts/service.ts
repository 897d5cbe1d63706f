/**
 * STS of the simulated cloud: a signed request in, an answer out. Answers and codes:
 * https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html and CommonErrors.html there.
 */
import { parseRoleArn } from "../../sessions/arn.ts";
import { newSession, roleOfSession, type StsPrincipal } from "./principals.ts";
import { deniesAll, sessionPolicies } from "./session-policies.ts";
import {
  type Claim,
  isSignedWith,
  parseAmzDate,
  parseAuthorization,
  type SignedRequest,
} from "./signature.ts";
import { allows, type TrustStatement } from "./trust.ts";
import { element, errorXml, responseXml } from "./xml.ts";

/** Who may assume a role. */
export interface RoleTrust {
  /** ARNs of the roles in its trust policy; "*" for anyone. */
  readonly trusts: readonly string[];
  /** The external id that its trust policy demands. Default: none. */
  readonly externalId?: string;
  /** The statements of its trust policy, with their conditions. They stand in place of the two above. */
  readonly statements?: readonly TrustStatement[];
}

/** What the service knows. */
export interface StsDirectory {
  /** By access key id: the instance role, and every session given out. */
  readonly principals: Map<string, StsPrincipal>;
  /** By role ARN; what is not in it does not exist. Null: every role exists and trusts everyone. */
  roles: Readonly<Record<string, RoleTrust>> | null;
  /** How long a session lasts at most, in seconds; null or absent: as asked for. */
  sessionSeconds?: number | null;
}

/** An answer, and its line in the log. */
export interface StsAnswer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: string;
  /** AWS's error code, or null where it is none. */
  readonly code: string | null;
}

/** Who asked and for what. */
export interface StsQuestion {
  readonly action: string;
  readonly parameters: Readonly<Record<string, string>>;
}

/** The clock may differ from the service's by this much ("Signature expired … 5 min."). */
const SKEW_MS = 5 * 60_000;

/** An error in STS's form. */
export function errorAnswer(status: number, code: string, message: string): StsAnswer {
  return { status, body: errorXml(status < 500 ? "Sender" : "Receiver", code, message), code };
}

/** Reads the form in a request's body. */
export function readQuestion(body: Uint8Array): StsQuestion {
  const parameters = Object.fromEntries(new URLSearchParams(new TextDecoder().decode(body)));
  return { action: parameters["Action"] ?? "", parameters };
}

/** The principal who signed this request, or the refusal. */
export function authenticate(
  directory: StsDirectory,
  request: SignedRequest,
  nowMs: number,
): StsPrincipal | StsAnswer {
  const claim = parseAuthorization(request.headers["authorization"]);
  if (claim === null)
    return errorAnswer(403, "MissingAuthenticationToken", "Request is missing Authentication Token");
  const principal = directory.principals.get(claim.accessKeyId);
  // AWS says the same of an unknown key and of a key whose token is wrong or absent.
  if (principal === undefined || request.headers["x-amz-security-token"] !== principal.sessionToken) {
    return errorAnswer(403, "InvalidClientTokenId", "The security token included in the request is invalid.");
  }
  const fault = signatureFault(claim, request, principal, nowMs);
  if (fault !== null) return errorAnswer(403, "SignatureDoesNotMatch", fault);
  if (principal.expiresAtMs <= nowMs) {
    return errorAnswer(403, "ExpiredToken", "The security token included in the request is expired");
  }
  return principal;
}

function signatureFault(
  claim: Claim,
  request: SignedRequest,
  principal: StsPrincipal,
  nowMs: number,
): string | null {
  const sentMs = parseAmzDate(request.headers["x-amz-date"]);
  if (sentMs === null || !request.headers["x-amz-date"]?.startsWith(claim.date)) {
    return "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP";
  }
  if (claim.service !== "sts") return "Credential should be scoped to correct service: 'sts'.";
  for (const name of ["host", "x-amz-date", "x-amz-security-token"]) {
    if (!claim.signedHeaders.includes(name))
      return `'${name}' must be a 'SignedHeader' in the AWS Authorization.`;
  }
  if (!isSignedWith(principal.secretAccessKey, claim, request)) {
    return "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.";
  }
  if (sentMs < nowMs - SKEW_MS)
    return "Signature expired: it is now earlier than the service's time less 5 min.";
  if (sentMs > nowMs + SKEW_MS)
    return "Signature not yet current: it is still later than the service's time plus 5 min.";
  return null;
}

/** Answers an authenticated question. */
export function answer(
  directory: StsDirectory,
  principal: StsPrincipal,
  question: StsQuestion,
  nowMs: number,
): StsAnswer {
  if (question.parameters["Version"] !== "2011-06-15") {
    return errorAnswer(400, "NoSuchVersion", "The requested version is not 2011-06-15");
  }
  if (question.action === "GetCallerIdentity") return callerIdentity(principal);
  // GetCallerIdentity needs no permission, and no policy can deny it (STS API reference).
  if (deniesAll(principal.policy)) {
    const resource = question.parameters["RoleArn"] ?? "*";
    const message = `User: ${principal.arn} is not authorized to perform: sts:${question.action} on resource: ${resource} with an explicit deny in a session policy`;
    return errorAnswer(403, "AccessDenied", message);
  }
  if (question.action === "AssumeRole") return assumeRole(directory, principal, question.parameters, nowMs);
  return errorAnswer(
    400,
    "InvalidAction",
    `Could not find operation ${question.action} for version 2011-06-15`,
  );
}

function callerIdentity(principal: StsPrincipal): StsAnswer {
  const result = [
    element("Arn", principal.arn),
    element("UserId", principal.userId),
    element("Account", principal.arn.split(":")[4] ?? ""),
  ];
  return { status: 200, body: responseXml("GetCallerIdentity", result), code: null };
}

function assumeRole(
  directory: StsDirectory,
  principal: StsPrincipal,
  parameters: StsQuestion["parameters"],
  nowMs: number,
): StsAnswer {
  const roleArn = parameters["RoleArn"] ?? "";
  const sessionName = parameters["RoleSessionName"] ?? "";
  const role = parseRoleArn(roleArn);
  if (role === null) return errorAnswer(400, "ValidationError", `${roleArn} is invalid`);
  if (!/^[\w+=,.@-]{2,64}$/.test(sessionName)) {
    return invalid(
      sessionName,
      "roleSessionName",
      "Member must satisfy regular expression pattern: [\\w+=,.@-]*",
    );
  }
  const seconds = Number(parameters["DurationSeconds"] ?? "3600");
  if (!Number.isInteger(seconds) || seconds < 900 || seconds > 43200) {
    return invalid(String(seconds), "durationSeconds", "Member must have value between 900 and 43200");
  }
  const callerRole = roleOfSession(principal.arn);
  if (callerRole !== null && seconds > 3600) {
    return errorAnswer(
      400,
      "ValidationError",
      "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
    );
  }
  if (!isTrusted(directory, roleArn, callerRole, principal.userId, parameters)) {
    const message = `User: ${principal.arn} is not authorized to perform: sts:AssumeRole on resource: ${roleArn}`;
    return errorAnswer(403, "AccessDenied", message);
  }
  const policies = sessionPolicies(parameters, role);
  if ("code" in policies) return errorAnswer(400, policies.code, policies.message);
  const lasts = Math.min(seconds, directory.sessionSeconds ?? seconds);
  const expiresAtMs = Math.floor(nowMs / 1000 + lasts) * 1000;
  const session = newSession(role, sessionName, expiresAtMs, policies.inline);
  for (const [key, known] of directory.principals)
    if (known.expiresAtMs < nowMs) directory.principals.delete(key);
  directory.principals.set(session.accessKeyId, session);
  const credentials = [
    element("AccessKeyId", session.accessKeyId),
    element("SecretAccessKey", session.secretAccessKey),
    element("SessionToken", session.sessionToken),
    element("Expiration", `${new Date(expiresAtMs).toISOString().slice(0, 19)}Z`),
  ];
  const user = [element("AssumedRoleId", session.userId), element("Arn", session.arn)];
  const source = parameters["SourceIdentity"];
  const result = [
    `<AssumedRoleUser>${user.join("")}</AssumedRoleUser>`,
    `<Credentials>${credentials.join("")}</Credentials>`,
    ...(source === undefined ? [] : [element("SourceIdentity", source)]),
    ...(policies.packedPercent === 0 ? [] : [element("PackedPolicySize", String(policies.packedPercent))]),
  ];
  return { status: 200, body: responseXml("AssumeRole", result), code: null };
}

function isTrusted(
  directory: StsDirectory,
  roleArn: string,
  callerRole: string | null,
  userId: string,
  parameters: StsQuestion["parameters"],
): boolean {
  if (directory.roles === null) return true;
  const trust = Object.hasOwn(directory.roles, roleArn) ? directory.roles[roleArn] : undefined;
  if (trust === undefined || callerRole === null) return false;
  if (trust.statements !== undefined)
    return trust.statements.some((one) => allows(one, callerRole, userId, parameters));
  if (trust.externalId !== undefined && trust.externalId !== parameters["ExternalId"]) return false;
  return trust.trusts.includes("*") || trust.trusts.includes(callerRole);
}

function invalid(value: string, member: string, rule: string): StsAnswer {
  const message = `1 validation error detected: Value '${value}' at '${member}' failed to satisfy constraint: ${rule}`;
  return errorAnswer(400, "ValidationError", message);
}
