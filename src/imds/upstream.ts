import { Agent, type IncomingHttpHeaders, request } from "node:http";
import { isNeverAllowed, SEGMENT } from "../config/categories.ts";
import { ImdsProxyError } from "../errors.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import type { InstanceCredentials, InstanceMetadata } from "../sessions/instance-credentials.ts";
import type { MetadataSource, UpstreamAnswer } from "./metadata.ts";

/**
 * The client of the node's own metadata service. Each request is built here from nothing but a version and a path of plain
 * segments, under IMDSv2 with a token of our own; nothing that a caller sent goes out.
 *
 * node:http and not fetch: Bun's fetch sends plain HTTP through the proxy that HTTP_PROXY names, and no proxy may see the
 * instance role's credentials.
 */

const TOKEN_TTL_SECONDS = 21_600;
const TIMEOUT_MS = 2_000;
const MAX_BODY_BYTES = 1_048_576;
const USER_AGENT = "imdsproxy";

interface RawAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** A failure that names what was asked and what came, without a body: a body could be a secret. */
class UpstreamFailure extends Error {}

/** Whether whoever answers at the upstream's address may; src/wiring/upstream-guard.ts is the real one. */
export interface UpstreamGuard {
  /**
   * @param local our end of a connection to it; null before there is one.
   * @returns why not, or null where it may.
   */
  problem(endpoint: Endpoint, local: Endpoint | null): string | null;
}

export class Upstream implements MetadataSource, InstanceMetadata {
  #endpoint: Endpoint;
  readonly #guard: UpstreamGuard;
  readonly #clock: Clock;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 8, timeout: 30_000 });
  #token: { readonly text: string | null; readonly renewAtMs: number } | null = null;
  #tokenRequest: Promise<string | null> | null = null;

  constructor(options: { endpoint: Endpoint; clock: Clock; guard?: UpstreamGuard }) {
    this.#endpoint = options.endpoint;
    this.#guard = options.guard ?? { problem: () => null };
    this.#clock = options.clock;
  }

  get endpoint(): Endpoint {
    return this.#endpoint;
  }

  /** Where it is, for logs: `http://169.254.169.254:80`. */
  get url(): string {
    return `http://${endpointText(this.#endpoint)}`;
  }

  /** From now on another service is asked, with another token. */
  moveTo(endpoint: Endpoint): void {
    this.#endpoint = endpoint;
    this.#token = null;
    this.#tokenRequest = null;
  }

  async read(version: string, path: string): Promise<UpstreamAnswer> {
    const segments = version === "" ? [] : [version, ...(path === "" ? [] : path.split("/"))];
    // The routes let none of these through; this is the second lock on the same door.
    if (isNeverAllowed(path) || segments.some((segment) => !SEGMENT.test(segment) || /^\.+$/.test(segment))) {
      throw new Error("a path that must not be asked for");
    }
    try {
      // Every character of a segment may stand in a path as it is (RFC 3986, pchar), and clients write a MAC's colons so.
      const target = `/${segments.join("/")}`;
      let answer = await this.#authorized(target);
      // Some metadata services send a directory's name to its form with a slash.
      if (answer.status >= 301 && answer.status <= 308) answer = await this.#authorized(`${target}/`);
      if (answer.status === 200) {
        const modified = Date.parse(answer.headers["last-modified"] ?? "");
        return { kind: "found", body: answer.body, lastModifiedMs: Number.isNaN(modified) ? null : modified };
      }
      if (answer.status === 404) return { kind: "absent" };
      return { kind: "failed", why: `status ${answer.status}` };
    } catch (error) {
      return { kind: "failed", why: error instanceof UpstreamFailure ? error.message : "no answer" };
    }
  }

  /** Whether the upstream refuses requests without a token; null where it cannot be told. */
  async tokensRequired(): Promise<boolean | null> {
    try {
      const { status } = await this.#send("GET", "/latest/meta-data", {});
      return status === 401 ? true : status < 400 ? false : null;
    } catch {
      return null;
    }
  }

  /** The name of the instance role, or null where the node has none. */
  async instanceRoleName(): Promise<string | null> {
    const list = await this.#authorized("/latest/meta-data/iam/security-credentials/");
    if (list.status === 404) return null;
    const name = list.body.split("\n")[0]?.trim() ?? "";
    if (list.status !== 200 || !/^[\w+=,.@-]{1,64}$/.test(name)) {
      throw new UpstreamFailure(`the list of roles: status ${list.status}`);
    }
    return name;
  }

  /** The instance role's credentials: for the broker alone. */
  async credentials(): Promise<InstanceCredentials> {
    const role = await this.instanceRoleName();
    if (role === null) {
      throw new ImdsProxyError(
        "upstream",
        `the metadata service at ${this.url} has no role for this node`,
        "attach an instance profile whose role may assume the substitute roles",
      );
    }
    const answer = await this.#authorized(`/latest/meta-data/iam/security-credentials/${role}`);
    let fields: Record<string, unknown> = {};
    try {
      fields = JSON.parse(answer.body) as Record<string, unknown>;
    } catch {
      // The parser's own words would quote the document.
    }
    const { AccessKeyId, SecretAccessKey, Token, Expiration } = fields;
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
      );
    }
    return { accessKeyId: AccessKeyId, secretAccessKey: SecretAccessKey, sessionToken: Token, expiresAtMs };
  }

  close(): void {
    this.#agent.destroy();
  }

  async #authorized(target: string): Promise<RawAnswer> {
    const answer = await this.#send("GET", target, tokenHeader(await this.#sessionToken()));
    if (answer.status !== 401) return answer;
    this.#token = null;
    return this.#send("GET", target, tokenHeader(await this.#sessionToken()));
  }

  /** A token of the upstream's, or null where it has none to give (IMDSv1 alone). */
  #sessionToken(): Promise<string | null> {
    const held = this.#token;
    const now = this.#clock.now();
    if (held !== null && held.renewAtMs > now && held.renewAtMs <= now + TOKEN_TTL_SECONDS * 1000) {
      return Promise.resolve(held.text);
    }
    this.#tokenRequest ??= this.#requestToken().finally(() => {
      this.#tokenRequest = null;
    });
    return this.#tokenRequest;
  }

  async #requestToken(): Promise<string | null> {
    const answer = await this.#send("PUT", "/latest/api/token", {
      "X-aws-ec2-metadata-token-ttl-seconds": String(TOKEN_TTL_SECONDS),
      "Content-Length": "0",
    });
    const now = this.#clock.now();
    if (answer.status === 200) {
      const ttl = Number(answer.headers["x-aws-ec2-metadata-token-ttl-seconds"] ?? TOKEN_TTL_SECONDS);
      const lifeSeconds = ttl > 0 && ttl <= TOKEN_TTL_SECONDS ? ttl : TOKEN_TTL_SECONDS;
      const text = answer.body.trim();
      if (!/^[\x21-\x7e]{1,1024}$/.test(text)) throw new UpstreamFailure("its token is malformed");
      this.#token = { text, renewAtMs: now + lifeSeconds * 900 };
      return text;
    }
    if (answer.status === 404 || answer.status === 405) {
      this.#token = { text: null, renewAtMs: now + 60_000 };
      return null;
    }
    throw new UpstreamFailure(`its token: status ${answer.status}`);
  }

  #send(method: "GET" | "PUT", path: string, headers: Record<string, string>): Promise<RawAnswer> {
    return new Promise((resolve, reject) => {
      const endpoint = this.#endpoint;
      const { address, port } = endpoint;
      const forbidden = this.#guard.problem(endpoint, null);
      if (forbidden !== null) {
        reject(new UpstreamFailure(forbidden));
        return;
      }
      const outgoing = request(
        {
          host: address,
          port,
          method,
          path,
          agent: this.#agent,
          headers: { "User-Agent": USER_AGENT, Accept: "*/*", ...headers },
          signal: AbortSignal.timeout(TIMEOUT_MS),
        },
        (incoming) => {
          const { localAddress, localPort } = incoming.socket;
          // Now that it has answered, the socket at the other end has an owner; before, it may still wait to be accepted.
          const impostor =
            localAddress === undefined || localPort === undefined
              ? null
              : this.#guard.problem(endpoint, { address: localAddress, port: localPort });
          if (impostor !== null) {
            incoming.socket.destroy();
            reject(new UpstreamFailure(impostor));
            return;
          }
          const parts: Buffer[] = [];
          let length = 0;
          incoming.on("data", (part: Buffer) => {
            length += part.length;
            if (length > MAX_BODY_BYTES) incoming.destroy(new UpstreamFailure("its answer is too long"));
            else parts.push(part);
          });
          incoming.on("end", () =>
            resolve({
              status: incoming.statusCode ?? 0,
              headers: incoming.headers,
              body: Buffer.concat(parts).toString("latin1"),
            }),
          );
          incoming.on("error", reject);
        },
      );
      outgoing.on("error", (error: NodeJS.ErrnoException) => {
        reject(
          error instanceof UpstreamFailure
            ? error
            : new UpstreamFailure(`no answer (${error.code ?? error.name})`),
        );
      });
      outgoing.end();
    });
  }
}

const tokenHeader = (token: string | null): Record<string, string> =>
  token === null ? {} : { "X-aws-ec2-metadata-token": token };
