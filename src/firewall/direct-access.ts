import { connect } from "node:net";
import { networkInterfaces } from "node:os";
import type { Endpoint } from "../identity/endpoint.ts";
import { endpointText } from "../identity/endpoint.ts";
import { after } from "../platform/clock.ts";
import { METADATA, sameEndpoint } from "./addresses.ts";
import { guardedEndpoints } from "./rules.ts";
import { FAMILIES, type FirewallSpec } from "./types.ts";

/**
 * Tries, as an ordinary user would, to reach the instance role past the proxy. An edge: opens connections.
 */

/** Every address of this node as one can connect to it, link-local ones of IPv6 with their interface. */
export function ownAddresses(): readonly string[] {
  return Object.entries(networkInterfaces()).flatMap(([name, list]) =>
    (list ?? []).map(({ address }) => (/^fe[89ab]/i.test(address) ? `${address}%${name}` : address)),
  );
}

/** Each of the ports at every address of this node: an agent may listen on all of them. */
export const everywhere = (ports: readonly number[]): Endpoint[] =>
  ports.flatMap((port) => ownAddresses().map((address) => ({ address, port })));

/**
 * Every endpoint that may give out the instance role without the redirect: the guarded ones, and the agent's ports at each
 * address of this node. Those that are never redirected come first.
 */
export function directEndpoints(spec: FirewallSpec): readonly Endpoint[] {
  const guarded = FAMILIES.flatMap((family) => guardedEndpoints(spec, family));
  const local = everywhere(spec.localPorts ?? []).filter(
    (endpoint) => !guarded.some((known) => sameEndpoint(known, endpoint)),
  );
  return [...guarded, ...local].sort(
    (a, b) => Number(a.address === METADATA.ipv4.address) - Number(b.address === METADATA.ipv4.address),
  );
}

/** What an attempt found. */
export interface Attempt {
  readonly endpoint: Endpoint;
  /**
   * `closed`: the connection was refused or reset. `absent`: nothing is there. `proxy`: our own proxy answered, so the
   * connection was redirected. `open`: something else took the connection.
   */
  readonly result: "closed" | "absent" | "proxy" | "open";
  /** The result as text. */
  readonly detail: string;
}

const TIMEOUT_MS = 2_000;
const MAX_ANSWER_BYTES = 64 * 1024;

type Exchange =
  | { readonly kind: "answer"; readonly text: string }
  | { readonly kind: "silent" | "cut" }
  | { readonly kind: "failed"; readonly code: string };

/** Sends one request on a new connection, and returns what came back until the other side closed. */
function exchange({ address, port }: Endpoint, head: string): Promise<Exchange> {
  return new Promise((resolve) => {
    let connected = false;
    let text = "";
    const socket = connect({ host: address, port });
    const finish = (result: Exchange) => {
      cancel();
      socket.destroy();
      resolve(result);
    };
    const whole = (): Exchange => (text === "" ? { kind: "cut" } : { kind: "answer", text });
    const cancel = after(TIMEOUT_MS, () => {
      if (!connected) finish({ kind: "failed", code: "ETIMEDOUT" });
      else finish(text === "" ? { kind: "silent" } : whole());
    });
    socket.once("connect", () => {
      connected = true;
      socket.write(
        `${head}Host: ${address.includes(":") ? `[${address}]` : address}\r\nConnection: close\r\n\r\n`,
      );
    });
    socket.on("data", (bytes) => {
      text += bytes.toString("latin1");
      if (text.length > MAX_ANSWER_BYTES) finish(whole());
    });
    socket.once("end", () => finish(whole()));
    socket.once("error", (error: NodeJS.ErrnoException) =>
      finish({ kind: "failed", code: error.code ?? "error" }),
    );
  });
}

const bodyOf = (answer: string): string => answer.slice(answer.indexOf("\r\n\r\n") + 4);

/** Whether the answer is our proxy's to `/imdsproxy/whoami`, which the real service does not have. */
function isWhoami(answer: string): boolean {
  try {
    const body: unknown = JSON.parse(bodyOf(answer));
    return typeof body === "object" && body !== null && "uid" in body && "sessionName" in body;
  } catch {
    return false;
  }
}

/** ENETUNREACH and EACCES are the second wall's. */
const REFUSED = new Set(["ECONNREFUSED", "ECONNRESET", "EPIPE", "ENETUNREACH", "EACCES"]);

/** Tries one endpoint. */
export async function attempt(endpoint: Endpoint): Promise<Attempt> {
  const where = endpointText(endpoint);
  const first = await exchange(endpoint, "GET /imdsproxy/whoami HTTP/1.1\r\n");
  if (first.kind === "failed") {
    return REFUSED.has(first.code)
      ? {
          endpoint,
          result: "closed",
          detail: `${where}: connection refused, or no way there (${first.code})`,
        }
      : { endpoint, result: "absent", detail: `${where}: nothing answers (${first.code})` };
  }
  if (first.kind !== "answer") {
    return { endpoint, result: "open", detail: `${where}: took the connection and said nothing` };
  }
  if (isWhoami(first.text)) {
    return { endpoint, result: "proxy", detail: `${where}: redirected to the proxy` };
  }
  const role = await instanceRole(endpoint);
  return {
    endpoint,
    result: "open",
    detail: role === null ? `${where}: answers` : `${where}: answers, and names the role ${role}`,
  };
}

/** The name of the role that the endpoint offers, asked with a token; null where it gives none. */
async function instanceRole(endpoint: Endpoint): Promise<string | null> {
  const token = await exchange(
    endpoint,
    "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n",
  );
  const granted = token.kind === "answer" && / 200 /.test(token.text.split("\r\n")[0] ?? "");
  const header = granted ? `X-aws-ec2-metadata-token: ${bodyOf(token.text).trim()}\r\n` : "";
  const list = await exchange(
    endpoint,
    `GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\r\n${header}`,
  );
  if (list.kind !== "answer" || !/ 200 /.test(list.text.split("\r\n")[0] ?? "")) return null;
  const name = bodyOf(list.text).split("\n")[0]?.trim() ?? "";
  return /^[\w+=,.@-]{1,64}$/.test(name) ? name : null;
}
