import { isNeverAllowed, SEGMENT } from "../config/categories.ts";
import { ImdsProxyError } from "../errors.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import type { InstanceCredentials, InstanceMetadata } from "../sessions/instance-credentials.ts";
import type { RawAnswer } from "./answer.ts";
import type { MetadataSource, UpstreamAnswer } from "./cache.ts";
import { type OnUpstreamRequest, UpstreamClient } from "./client.ts";
import { UpstreamFailure, type UpstreamGuard } from "./connection.ts";
import { CREDENTIALS_PATH, credentialsOf, roleNameOf } from "./credentials.ts";
import { UpstreamToken } from "./token.ts";

/** A metadata service at one endpoint, with the token that it gave us: neither is used for another service. */
interface Service {
  readonly endpoint: Endpoint;
  readonly token: UpstreamToken;
}

/**
 * The node's own metadata service. Each request is built here from a version and a path of plain segments, under IMDSv2
 * with a token of our own. Nothing that a caller sent goes out.
 */
export class Upstream implements MetadataSource, InstanceMetadata {
  readonly #client: UpstreamClient;
  readonly #clock: Clock;
  #service: Service;

  constructor(options: {
    endpoint: Endpoint;
    clock: Clock;
    guard?: UpstreamGuard;
    onRequest?: OnUpstreamRequest;
  }) {
    const { guard, clock, onRequest } = options;
    this.#client = new UpstreamClient({ guard, clock, onRequest });
    this.#clock = options.clock;
    this.#service = this.#serviceAt(options.endpoint);
  }

  get endpoint(): Endpoint {
    return this.#service.endpoint;
  }

  /** The endpoint as a URL, for logs: `http://169.254.169.254:80`. */
  get url(): string {
    return `http://${endpointText(this.#service.endpoint)}`;
  }

  /** Makes another service the upstream, with a new token. Requests under way are repeated there. */
  moveTo(endpoint: Endpoint): void {
    this.#service = this.#serviceAt(endpoint);
    this.#client.closeIdle();
  }

  async read(version: string, path: string): Promise<UpstreamAnswer> {
    const segments = version === "" ? [] : [version, ...(path === "" ? [] : path.split("/"))];
    // The routes let none of these through. This is a second check, in case that they ever do.
    if (isNeverAllowed(path) || segments.some((segment) => !SEGMENT.test(segment) || /^\.+$/.test(segment))) {
      throw new Error("a path that must not be asked for");
    }
    try {
      return await this.#ofCurrent((service) => this.#read(service, `/${segments.join("/")}`));
    } catch (error) {
      return { kind: "failed", why: error instanceof UpstreamFailure ? error.message : "no answer" };
    }
  }

  /** Whether the upstream refuses requests without a token; null where it does not answer that. */
  async tokensRequired(): Promise<boolean | null> {
    try {
      return await this.#ofCurrent(async ({ endpoint }) => {
        const { status } = await this.#client.send(endpoint, {
          method: "GET",
          path: "/latest/meta-data",
          headers: {},
        });
        // Whoever wants a token says so first, whatever else is there.
        return status === 401 ? true : status < 400 || status === 404 ? false : null;
      });
    } catch {
      return null;
    }
  }

  /** The name of the instance role, or null where the node has none. @throws UpstreamFailure */
  instanceRoleName(): Promise<string | null> {
    return this.#ofCurrent((service) => this.#roleName(service));
  }

  /** The instance role's credentials, for the broker alone. @throws ImdsProxyError `upstream` */
  async credentials(): Promise<InstanceCredentials> {
    try {
      return await this.#ofCurrent((service) => this.#credentials(service));
    } catch (error) {
      if (!(error instanceof UpstreamFailure)) throw error;
      throw new ImdsProxyError(
        "upstream",
        `the metadata service at ${this.url}: ${error.message}`,
        "see whether it runs; on HyperPod: ss -ltnp 'sport = 9081'",
      );
    }
  }

  close(): void {
    this.#client.close();
  }

  #serviceAt(endpoint: Endpoint): Service {
    return { endpoint, token: new UpstreamToken({ endpoint, client: this.#client, clock: this.#clock }) };
  }

  /** What the current service says. Where the upstream moves meanwhile, the result is dropped and the new one is asked. */
  async #ofCurrent<Result>(ask: (service: Service) => Promise<Result>): Promise<Result> {
    for (;;) {
      const service = this.#service;
      try {
        const result = await ask(service);
        if (service === this.#service) return result;
      } catch (error) {
        if (service === this.#service) throw error;
      }
    }
  }

  async #read(service: Service, target: string): Promise<UpstreamAnswer> {
    // A segment's characters are sent unencoded, as clients send the colons of a MAC address (RFC 3986, pchar).
    let answer = await this.#get(service, target);
    // Some metadata services redirect a directory's name to the name with a slash.
    if (answer.status >= 301 && answer.status <= 308) answer = await this.#get(service, `${target}/`);
    if (answer.status === 200) {
      const modified = Date.parse(answer.headers.get("last-modified") ?? "");
      return { kind: "found", body: answer.body, lastModifiedMs: Number.isNaN(modified) ? null : modified };
    }
    if (answer.status === 404) return { kind: "absent" };
    return { kind: "failed", why: `status ${answer.status}` };
  }

  async #roleName(service: Service): Promise<string | null> {
    return roleNameOf(await this.#get(service, CREDENTIALS_PATH));
  }

  async #credentials(service: Service): Promise<InstanceCredentials> {
    const role = await this.#roleName(service);
    if (role === null) {
      throw new ImdsProxyError(
        "upstream",
        `the metadata service at ${this.url} has no role for this node`,
        "attach an instance profile whose role may assume the substitute roles",
      );
    }
    return credentialsOf(await this.#get(service, `${CREDENTIALS_PATH}${role}`));
  }

  /** One GET with the token. Where the token is refused, once more with a new one. */
  async #get({ endpoint, token }: Service, path: string): Promise<RawAnswer> {
    const send = async () =>
      this.#client.send(endpoint, { method: "GET", path, headers: await token.header() });
    const answer = await send();
    if (answer.status !== 401) return answer;
    token.drop();
    return send();
  }
}
