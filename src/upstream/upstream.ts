import { isNeverAllowed, SEGMENT } from "../config/categories.ts";
import { ImdsProxyError } from "../errors.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import type { InstanceCredentials, InstanceMetadata } from "../sessions/instance-credentials.ts";
import type { RawAnswer } from "./answer.ts";
import type { MetadataSource, UpstreamAnswer } from "./cache.ts";
import { UpstreamClient, UpstreamFailure, type UpstreamGuard } from "./client.ts";

/**
 * The node's own metadata service. Each request is built here from nothing but a version and a path of plain segments,
 * under IMDSv2 with a token of our own; nothing that a caller sent goes out.
 */

const TOKEN_TTL_SECONDS = 21_600;

/** A service at one endpoint, with what it gave us. A move makes another, so that nothing of the old one is used there. */
interface Place {
  readonly endpoint: Endpoint;
  token: { readonly text: string | null; readonly renewAtMs: number } | null;
  tokenRequest: Promise<string | null> | null;
}

const placeAt = (endpoint: Endpoint): Place => ({ endpoint, token: null, tokenRequest: null });

export class Upstream implements MetadataSource, InstanceMetadata {
  #place: Place;
  readonly #client: UpstreamClient;
  readonly #clock: Clock;

  constructor(options: { endpoint: Endpoint; clock: Clock; guard?: UpstreamGuard }) {
    this.#place = placeAt(options.endpoint);
    this.#client = new UpstreamClient({ guard: options.guard, clock: options.clock });
    this.#clock = options.clock;
  }

  get endpoint(): Endpoint {
    return this.#place.endpoint;
  }

  /** Where it is, for logs: `http://169.254.169.254:80`. */
  get url(): string {
    return `http://${endpointText(this.#place.endpoint)}`;
  }

  /** From now on another service is asked, with another token. What is under way is asked there again. */
  moveTo(endpoint: Endpoint): void {
    this.#place = placeAt(endpoint);
    this.#client.closeIdle();
  }

  async read(version: string, path: string): Promise<UpstreamAnswer> {
    const segments = version === "" ? [] : [version, ...(path === "" ? [] : path.split("/"))];
    // The routes let none of these through; this is the second lock on the same door.
    if (isNeverAllowed(path) || segments.some((segment) => !SEGMENT.test(segment) || /^\.+$/.test(segment))) {
      throw new Error("a path that must not be asked for");
    }
    try {
      return await this.#settled((place) => this.#read(place, `/${segments.join("/")}`));
    } catch (error) {
      return { kind: "failed", why: error instanceof UpstreamFailure ? error.message : "no answer" };
    }
  }

  /** Whether the upstream refuses requests without a token; null where it cannot be told. */
  async tokensRequired(): Promise<boolean | null> {
    try {
      return await this.#settled(async ({ endpoint }) => {
        const { status } = await this.#client.send(endpoint, {
          method: "GET",
          path: "/latest/meta-data",
          headers: {},
        });
        return status === 401 ? true : status < 400 ? false : null;
      });
    } catch {
      return null;
    }
  }

  /** The name of the instance role, or null where the node has none. */
  instanceRoleName(): Promise<string | null> {
    return this.#settled((place) => this.#roleName(place));
  }

  /** The instance role's credentials: for the broker alone. @throws ImdsProxyError `upstream` */
  async credentials(): Promise<InstanceCredentials> {
    try {
      return await this.#settled((place) => this.#credentials(place));
    } catch (error) {
      if (!(error instanceof UpstreamFailure)) throw error;
      throw new ImdsProxyError("upstream", `the metadata service at ${this.url}: ${error.message}`);
    }
  }

  close(): void {
    this.#client.close();
  }

  /** Does something with the service where it is, and once more where it moved meanwhile: what came of the old one is void. */
  async #settled<Result>(act: (place: Place) => Promise<Result>): Promise<Result> {
    for (;;) {
      const place = this.#place;
      try {
        const result = await act(place);
        if (place === this.#place) return result;
      } catch (error) {
        if (place === this.#place) throw error;
      }
    }
  }

  async #read(place: Place, target: string): Promise<UpstreamAnswer> {
    // Every character of a segment may stand in a path as it is (RFC 3986, pchar), and clients write a MAC's colons so.
    let answer = await this.#authorized(place, target);
    // Some metadata services send a directory's name to its form with a slash.
    if (answer.status >= 301 && answer.status <= 308) answer = await this.#authorized(place, `${target}/`);
    if (answer.status === 200) {
      const modified = Date.parse(answer.headers.get("last-modified") ?? "");
      return { kind: "found", body: answer.body, lastModifiedMs: Number.isNaN(modified) ? null : modified };
    }
    if (answer.status === 404) return { kind: "absent" };
    return { kind: "failed", why: `status ${answer.status}` };
  }

  async #roleName(place: Place): Promise<string | null> {
    const list = await this.#authorized(place, "/latest/meta-data/iam/security-credentials/");
    if (list.status === 404) return null;
    const name = list.body.split("\n")[0]?.trim() ?? "";
    if (list.status !== 200 || !/^[\w+=,.@-]{1,64}$/.test(name)) {
      throw new UpstreamFailure(`the list of roles: status ${list.status}`);
    }
    return name;
  }

  async #credentials(place: Place): Promise<InstanceCredentials> {
    const role = await this.#roleName(place);
    if (role === null) {
      throw new ImdsProxyError(
        "upstream",
        `the metadata service at ${this.url} has no role for this node`,
        "attach an instance profile whose role may assume the substitute roles",
      );
    }
    const answer = await this.#authorized(place, `/latest/meta-data/iam/security-credentials/${role}`);
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

  async #authorized(place: Place, path: string): Promise<RawAnswer> {
    const get = async () =>
      this.#client.send(place.endpoint, {
        method: "GET",
        path,
        headers: tokenHeader(await this.#sessionToken(place)),
      });
    const answer = await get();
    if (answer.status !== 401) return answer;
    place.token = null;
    return get();
  }

  /** A token of the upstream's, or null where it has none to give (IMDSv1 alone). */
  #sessionToken(place: Place): Promise<string | null> {
    const held = place.token;
    const now = this.#clock.now();
    if (held !== null && held.renewAtMs > now && held.renewAtMs <= now + TOKEN_TTL_SECONDS * 1000) {
      return Promise.resolve(held.text);
    }
    place.tokenRequest ??= this.#requestToken(place).finally(() => {
      place.tokenRequest = null;
    });
    return place.tokenRequest;
  }

  async #requestToken(place: Place): Promise<string | null> {
    const answer = await this.#client.send(place.endpoint, {
      method: "PUT",
      path: "/latest/api/token",
      headers: {
        "X-aws-ec2-metadata-token-ttl-seconds": String(TOKEN_TTL_SECONDS),
        "Content-Length": "0",
      },
    });
    const now = this.#clock.now();
    if (answer.status === 200) {
      const ttl = Number(answer.headers.get("x-aws-ec2-metadata-token-ttl-seconds") ?? TOKEN_TTL_SECONDS);
      const lifeSeconds = ttl > 0 && ttl <= TOKEN_TTL_SECONDS ? ttl : TOKEN_TTL_SECONDS;
      const text = answer.body.trim();
      if (!/^[\x21-\x7e]{1,1024}$/.test(text)) throw new UpstreamFailure("its token is malformed");
      place.token = { text, renewAtMs: now + lifeSeconds * 900 };
      return text;
    }
    if (answer.status === 404 || answer.status === 405) {
      place.token = { text: null, renewAtMs: now + 60_000 };
      return null;
    }
    throw new UpstreamFailure(`its token: status ${answer.status}`);
  }
}

const tokenHeader = (token: string | null): Record<string, string> =>
  token === null ? {} : { "X-aws-ec2-metadata-token": token };
