import { send } from "../client/metadata-address.ts";
import { type Attempt, attempt } from "../firewall/direct-access.ts";
import type { Endpoint } from "../identity/endpoint.ts";

/**
 * Asks the metadata service what the user of this process gets. No secret leaves this file: of credentials it reports the
 * outcome and a digest of the access key id.
 */

/** What one user got. */
export interface Probe {
  /** Status of the token request; 0 where there was no answer. */
  readonly token: number;
  /** The role list: status and text, cut to 200 characters. */
  readonly list: { readonly status: number; readonly text: string };
  /** The credentials of the listed role: status, `Code`, and a digest that tells two sets apart. */
  readonly credentials: {
    readonly status: number;
    readonly code: string | null;
    readonly digest: string | null;
  };
  /** The status of the credentials of the role in `forbiddenRole`; null where none was given. */
  readonly forbidden: number | null;
  /** The outcome of a connection to each address that the caller should not reach. */
  readonly direct: readonly Attempt[];
}

/**
 * @param forbiddenRole a role whose credentials the caller should not get.
 * @param direct addresses that the caller should not reach.
 */
export async function probe(forbiddenRole: string | null, direct: readonly Endpoint[]): Promise<Probe> {
  const tokenAnswer = await ask("PUT", "/latest/api/token", { "X-aws-ec2-metadata-token-ttl-seconds": "60" });
  const headers: Record<string, string> =
    tokenAnswer.status === 200 ? { "X-aws-ec2-metadata-token": tokenAnswer.text } : {};
  const base = "/latest/meta-data/iam/security-credentials/";
  const list = await ask("GET", base, headers);
  const role = list.text.trim();
  const named = list.status === 200 && /^[\w+=,.@-]+$/.test(role);
  const credentials = named ? await ask("GET", base + role, headers) : { status: 0, text: "" };
  const forbidden = forbiddenRole === null ? null : (await ask("GET", base + forbiddenRole, headers)).status;
  return {
    token: tokenAnswer.status,
    list: { status: list.status, text: list.text.slice(0, 200) },
    credentials: { status: credentials.status, ...digestOf(credentials.text) },
    forbidden,
    direct: await Promise.all(direct.map(attempt)),
  };
}

async function ask(
  method: "GET" | "PUT",
  path: string,
  headers: Record<string, string>,
): Promise<{ status: number; text: string }> {
  try {
    const { status, body } = await send(method, path, headers);
    return { status, text: body };
  } catch {
    return { status: 0, text: "" };
  }
}

function digestOf(text: string): { code: string | null; digest: string | null } {
  try {
    const body = JSON.parse(text) as { Code?: unknown; AccessKeyId?: unknown };
    const code = typeof body.Code === "string" ? body.Code : null;
    if (typeof body.AccessKeyId !== "string") return { code, digest: null };
    return { code, digest: digestOfKey(body.AccessKeyId) };
  } catch {
    return { code: null, digest: null };
  }
}

/** A digest that distinguishes two sets of credentials and contains no part of them. */
export const digestOfKey = (accessKeyId: string): string =>
  new Bun.CryptoHasher("sha256").update(accessKeyId).digest("hex").slice(0, 16);
