import { randomBytes } from "node:crypto";
import { parseRoleArn, type RoleArn } from "../../sessions/arn.ts";
import type { DemoCredentials } from "../imds/secrets.ts";

/** A principal that the stand-in knows: the instance role, or a session that it has issued. */
export interface StsPrincipal extends DemoCredentials {
  /** `arn:PARTITION:sts::ACCOUNT:assumed-role/NAME/SESSION` */
  readonly arn: string;
  /** `AROA…:SESSION` */
  readonly userId: string;
  /** Milliseconds since the epoch. */
  readonly expiresAtMs: number;
  /** The inline session policy, as JSON text. Default: none. */
  readonly policy?: string;
}

/** `arn:…:iam::…:role/NAME` of an assumed role's ARN: what a trust policy names. Null where it is none. */
export function roleOfSession(arn: string): string | null {
  const found = /^arn:(aws[a-z-]*):sts::(\d{12}):assumed-role\/([^/]+)\/[^/]+$/.exec(arn);
  return found === null ? null : `arn:${found[1]}:iam::${found[2]}:role/${found[3]}`;
}

/** The instance role as the stand-in has to know it: `arn:aws:sts::ACCOUNT:assumed-role/NAME/INSTANCE-ID`. */
export function instancePrincipal(
  role: DemoCredentials,
  roleArn: string,
  sessionName: string,
  expiresAtMs: number,
): StsPrincipal {
  const parsed = parseRoleArn(roleArn);
  if (parsed === null) throw new TypeError(`not the ARN of a role: ${roleArn}`);
  return { ...role, ...namesOf(parsed, sessionName), expiresAtMs };
}

/**
 * A new session of a role. The secret and the token begin with SESSION and the role's name, so that whoever finds
 * them in some bytes knows whose they are.
 */
export function newSession(
  role: RoleArn,
  sessionName: string,
  expiresAtMs: number,
  policy?: string,
): StsPrincipal {
  const marker = sessionMarker(role.name);
  return {
    accessKeyId: `ASIA${base32(16)}`,
    secretAccessKey: `${marker}${randomBytes(18).toString("base64url")}`,
    sessionToken: `${marker}${randomBytes(120).toString("base64url")}`,
    ...namesOf(role, sessionName),
    expiresAtMs,
    ...(policy === undefined ? {} : { policy }),
  };
}

/** What the secrets of every session of this role begin with. */
export function sessionMarker(roleName: string): string {
  return `SESSION/${roleName}/`;
}

function namesOf(role: RoleArn, sessionName: string): { arn: string; userId: string } {
  return {
    arn: `arn:${role.partition}:sts::${role.account}:assumed-role/${role.name}/${sessionName}`,
    userId: `${roleId(role)}:${sessionName}`,
  };
}

const BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

function base32(length: number): string {
  return Array.from(randomBytes(length), (byte) => BASE32[byte % 32]).join("");
}

/** The id of a role: the same for the same role, as AWS's ids are. */
function roleId(role: RoleArn): string {
  const digest = new Bun.CryptoHasher("sha256").update(`${role.account}/${role.name}`).digest();
  return `AROA${Array.from(digest.subarray(0, 17), (byte) => BASE32[byte % 32]).join("")}`;
}
