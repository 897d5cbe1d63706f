import type { Endpoint } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import type { UpstreamClient } from "./client.ts";
import { UpstreamFailure } from "./connection.ts";

/** The TTL that is asked for, in seconds: the longest that IMDSv2 gives (Amazon EC2 User Guide, "Use IMDSv2"). */
const TTL_SECONDS = 21_600;
/** Part of a token's life after which a new one is asked for. */
const RENEW_AFTER = 0.9;
/** Milliseconds until a service that has no tokens (IMDSv1 alone) is asked for one again. */
const ASK_AGAIN_MS = 60_000;

/** The IMDSv2 token that one metadata service gave us. It is kept for its life, and requested once for all who wait. */
export class UpstreamToken {
  readonly #endpoint: Endpoint;
  readonly #client: Pick<UpstreamClient, "send">;
  readonly #clock: Clock;
  #held: { readonly text: string | null; readonly renewAtMs: number } | null = null;
  #request: Promise<string | null> | null = null;

  constructor(options: { endpoint: Endpoint; client: Pick<UpstreamClient, "send">; clock: Clock }) {
    this.#endpoint = options.endpoint;
    this.#client = options.client;
    this.#clock = options.clock;
  }

  /** The header that authorizes a request; empty where the service has no tokens. @throws UpstreamFailure */
  async header(): Promise<Record<string, string>> {
    const text = await this.#get();
    return text === null ? {} : { "X-aws-ec2-metadata-token": text };
  }

  /** Drops the token, which the service has refused: the next request asks for a new one. */
  drop(): void {
    this.#held = null;
  }

  #get(): Promise<string | null> {
    const held = this.#held;
    const now = this.#clock.now();
    // A time of renewal beyond a whole life means that the clock was set back.
    if (held !== null && held.renewAtMs > now && held.renewAtMs <= now + TTL_SECONDS * 1000) {
      return Promise.resolve(held.text);
    }
    this.#request ??= this.#ask().finally(() => {
      this.#request = null;
    });
    return this.#request;
  }

  async #ask(): Promise<string | null> {
    const answer = await this.#client.send(this.#endpoint, {
      method: "PUT",
      path: "/latest/api/token",
      headers: { "X-aws-ec2-metadata-token-ttl-seconds": String(TTL_SECONDS), "Content-Length": "0" },
    });
    const now = this.#clock.now();
    if (answer.status === 200) {
      const ttl = Number(answer.headers.get("x-aws-ec2-metadata-token-ttl-seconds") ?? TTL_SECONDS);
      const lifeSeconds = ttl > 0 && ttl <= TTL_SECONDS ? ttl : TTL_SECONDS;
      const text = answer.body.trim();
      if (!/^[\x21-\x7e]{1,1024}$/.test(text)) throw new UpstreamFailure("its token is malformed");
      this.#held = { text, renewAtMs: now + lifeSeconds * 1000 * RENEW_AFTER };
      return text;
    }
    if (answer.status === 404 || answer.status === 405) {
      this.#held = { text: null, renewAtMs: now + ASK_AGAIN_MS };
      return null;
    }
    throw new UpstreamFailure(`its token: status ${answer.status}`);
  }
}
