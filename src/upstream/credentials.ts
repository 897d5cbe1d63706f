import { ImdsProxyError } from "../errors.ts";
import type { InstanceCredentials } from "../sessions/instance-credentials.ts";
import type { RawAnswer } from "./answer.ts";
import { UpstreamFailure } from "./connection.ts";

/** The path of the list of roles, and with a role's name behind it of that role's credentials. */
export const CREDENTIALS_PATH = "/latest/meta-data/iam/security-credentials/";

/**
 * The name of the instance role in the answer to {@link CREDENTIALS_PATH}; null where the node has no role. Pure.
 *
 * @throws UpstreamFailure where the answer is no list of roles.
 */
export function roleNameOf(list: Pick<RawAnswer, "status" | "body">): string | null {
  if (list.status === 404) return null;
  const name = list.body.split("\n")[0]?.trim() ?? "";
  if (list.status !== 200 || !/^[\w+=,.@-]{1,64}$/.test(name)) {
    throw new UpstreamFailure(`the list of roles: status ${list.status}`);
  }
  return name;
}

/**
 * The credentials in a document of the metadata service. Pure.
 *
 * @throws ImdsProxyError `upstream` where a field is missing; its text has nothing of the document.
 */
export function credentialsOf(answer: Pick<RawAnswer, "status" | "body">): InstanceCredentials {
  let fields: Record<string, unknown> | null = null;
  try {
    fields = JSON.parse(answer.body) as Record<string, unknown> | null;
  } catch {
    // The parser's message would quote the document.
  }
  const { AccessKeyId, SecretAccessKey, Token, Expiration } = fields ?? {};
  const expiresAtMs = Date.parse(String(Expiration));
  if (
    answer.status !== 200 ||
    typeof AccessKeyId !== "string" ||
    typeof SecretAccessKey !== "string" ||
    typeof Token !== "string" ||
    Number.isNaN(expiresAtMs)
  ) {
    throw new ImdsProxyError(
      "upstream",
      `the credentials of the instance role cannot be read (status ${answer.status})`,
      "see that the node has an instance role, and that its metadata service gives root its credentials",
    );
  }
  return { accessKeyId: AccessKeyId, secretAccessKey: SecretAccessKey, sessionToken: Token, expiresAtMs };
}
