import { connect } from "node:net";
import { send } from "../client/metadata-address.ts";
import type { Endpoint } from "../identity/endpoint.ts";

/**
 * Asks the metadata service what a caller gets, as whoever runs it. No secret leaves this file: of credentials only the
 * outcome and a digest of the access key id.
 */

/** What one caller got. */
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
  /** Each address that was asked without the redirect, and what answered: null where nothing did. */
  readonly direct: readonly { readonly address: string; readonly answered: string | null }[];
}

const TIMEOUT_MS = 3000;

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
    direct: await Promise.all(
      direct.map(async (endpoint) => ({
        address: `${endpoint.address}:${endpoint.port}`,
        answered: await askDirectly(endpoint),
      })),
    ),
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
    return {
      code,
      digest: new Bun.CryptoHasher("sha256").update(body.AccessKeyId).digest("hex").slice(0, 16),
    };
  } catch {
    return { code: null, digest: null };
  }
}

/** Any byte that comes back is an answer; the first line of it is what is reported. */
function askDirectly({ address, port }: Endpoint): Promise<string | null> {
  return new Promise((resolve) => {
    let answer = "";
    const socket = connect({ host: address, port });
    const end = () => {
      socket.destroy();
      resolve(answer === "" ? null : (answer.split("\r\n")[0] ?? answer));
    };
    socket.setTimeout(TIMEOUT_MS, end);
    socket.on("connect", () =>
      socket.write(`GET /latest/meta-data/ HTTP/1.1\r\nHost: ${address}\r\nConnection: close\r\n\r\n`),
    );
    socket.on("data", (bytes) => {
      answer += bytes.toString("latin1").slice(0, 200);
      if (answer.includes("\r\n")) end();
    });
    socket.on("error", end);
    socket.on("close", end);
  });
}
