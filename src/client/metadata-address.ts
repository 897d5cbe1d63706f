import { request } from "node:http";
import { networkInterfaces } from "node:os";
import { ImdsProxyError } from "../errors.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import { monotonicMs, sleep } from "../platform/clock.ts";

/**
 * The metadata address as a client of this node sees it. By node:http: Bun's fetch would send plain HTTP through the proxy
 * that HTTP_PROXY names, which is no way an SDK takes.
 */

/** What the metadata address answered. */
export interface MetadataReply {
  readonly status: number;
  readonly body: string;
}

const METADATA: Endpoint = { address: "169.254.169.254", port: 80 };
const TIMEOUT_MS = 5_000;
/** Milliseconds until the next try after a 503: what its Retry-After says. */
const AGAIN_MS = 1_000;

/**
 * Asks the metadata address as an SDK does: a token, then the path, over whatever the firewall makes of it.
 *
 * @param at where to ask instead: the proxy's own address, where root is not redirected.
 * @param timeoutMs milliseconds for each of the two requests; default 5000.
 * @throws ImdsProxyError `unhealthy` where nothing answers there.
 */
export async function askMetadata(
  path: string,
  { at = METADATA, timeoutMs = TIMEOUT_MS }: { readonly at?: Endpoint; readonly timeoutMs?: number } = {},
): Promise<MetadataReply> {
  const ttl = { "X-aws-ec2-metadata-token-ttl-seconds": "60" };
  const token = await send("PUT", "/latest/api/token", ttl, at, timeoutMs);
  const headers: Record<string, string> =
    token.status === 200 ? { "X-aws-ec2-metadata-token": token.body } : {};
  return send("GET", path, headers, at, timeoutMs);
}

/**
 * Asks for the credentials of a role as an SDK does, and forgets them: it is their being asked for that counts.
 *
 * @param limitMs how long it is tried again after a 503.
 * @returns "made" where there are credentials, else why there are none.
 * @throws ImdsProxyError `unhealthy` where nothing answers there.
 */
export async function askForCredentials(role: string, limitMs: number): Promise<string> {
  const endMs = monotonicMs() + limitMs;
  for (;;) {
    const answer = await askMetadata(`/latest/meta-data/iam/security-credentials/${role}`);
    if (answer.status === 200) return outcomeOf(answer.body);
    if (answer.status !== 503 || monotonicMs() + AGAIN_MS > endMs) {
      return `the proxy answers with status ${answer.status}`;
    }
    await sleep(AGAIN_MS);
  }
}

/** What a document of credentials says, without a secret. */
function outcomeOf(body: string): string {
  try {
    const { Code, Message } = JSON.parse(body) as { Code?: unknown; Message?: unknown };
    return Code === "Success" ? "made" : `${String(Code)}: ${String(Message)}`;
  } catch {
    return "the proxy answers with no document of credentials";
  }
}

/**
 * Sends one request, without a token of its own.
 *
 * @throws ImdsProxyError `unhealthy` where nothing answers, or not to the end.
 */
export function send(
  method: "GET" | "PUT",
  path: string,
  headers: Readonly<Record<string, string>>,
  at: Endpoint = METADATA,
  timeoutMs = TIMEOUT_MS,
): Promise<MetadataReply> {
  return new Promise((resolve, reject) => {
    const fail = (error: NodeJS.ErrnoException): void => {
      const code = error.code ?? error.name;
      reject(
        new ImdsProxyError(
          "unhealthy",
          `nothing answers at ${at === METADATA ? "the metadata address 169.254.169.254" : endpointText(at)} (${code})`,
          remedyOf(code),
        ),
      );
    };
    const outgoing = request(
      {
        host: at.address,
        port: at.port,
        method,
        path,
        headers: { "Content-Length": "0", ...headers },
        agent: false,
        signal: AbortSignal.timeout(timeoutMs),
      },
      (incoming) => {
        const parts: Buffer[] = [];
        incoming.on("data", (part: Buffer) => parts.push(part));
        incoming.on("end", () =>
          resolve({ status: incoming.statusCode ?? 0, body: Buffer.concat(parts).toString("utf8") }),
        );
        // Of an answer that ends half way, as where the proxy is stopped.
        incoming.on("error", fail);
      },
    );
    outgoing.on("error", fail);
    outgoing.end();
  });
}

/** What to look at, by how the connection failed. */
function remedyOf(code: string): string {
  // Bun calls an unreachable network a refused connection.
  const others = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  if (!others.some(({ internal }) => !internal)) {
    return "this process has no network but lo: a network namespace of its own (unshare, a container) has no way to the proxy";
  }
  if (/ECONNREFUSED|ECONNRESET|EACCES|EPERM/.test(code)) {
    return "the connection was refused: the proxy is not running; sudo systemctl status imdsproxy";
  }
  return "this node may not be on AWS, or its metadata service is turned off";
}
