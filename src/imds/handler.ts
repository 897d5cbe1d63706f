import type { CategoryFilter } from "../config/categories.ts";
import type { SocketOwner } from "../identity/lookup.ts";
import { AmbiguousIdentity } from "../identity/resolver.ts";
import type { Identity } from "../identity/types.ts";
import type { Clock } from "../platform/clock.ts";
import type { Decision, Rules } from "../rules/decide.ts";
import { parseRoleArn } from "../sessions/arn.ts";
import type { SessionBroker } from "../sessions/broker.ts";
import { type Answer, errorPage, text } from "./answer.ts";
import { credentialsDocument, infoDocument } from "./documents.ts";
import type { MetadataCache, UpstreamAnswer } from "./metadata.ts";
import type { Request } from "./request.ts";
import { parseRoute, type Route } from "./routes.ts";
import { originForm } from "./target.ts";
import { parseTtl, type Subject, type TokenMint } from "./tokens.ts";
import { whoamiDocument } from "./whoami.ts";

/** Who sent a request, as far as the kernel let us know. */
export type Caller = KnownCaller | { readonly kind: "unknown" };

/** A caller who may ask. */
export type KnownCaller =
  /** A process of this node. */
  | {
      readonly kind: "owner";
      readonly owner: SocketOwner;
      /** Under which name this caller's share is kept: the uid, or what all subordinate uids of an owner have in common. */
      readonly share: Subject;
    }
  /** A bridged container, where the configuration serves them: it has an address and no uid. */
  | { readonly kind: "container"; readonly address: string };

/** For whom a token is: a uid, or a container's address. */
export const subjectOf = (caller: KnownCaller): Subject =>
  caller.kind === "owner" ? caller.owner.uid : caller.address;

/** Under which name a caller's share of connections, turns, the upstream and sessions is kept. */
export const shareOf = (caller: KnownCaller): Subject =>
  caller.kind === "owner" ? caller.share : caller.address;

const containerIdentity = (address: string): Identity => ({
  uid: null,
  container: address,
  user: null,
  subordinate: false,
  groups: [],
  cgroup: null,
  slurmJobId: null,
});
/** What the audit log and the metrics hear of a request. Holds no secret. */
export interface RequestEvent {
  /** A uid, a container's address, or null where neither is known. */
  readonly subject: Subject | null;
  readonly method: string;
  readonly route: Route["kind"] | "none";
  readonly status: number;
  /** Why it was refused, where it was. */
  readonly why?: string | undefined;
}

export interface HandlerOptions {
  readonly clock: Clock;
  readonly tokens: TokenMint;
  readonly metadata: MetadataCache;
  readonly broker: SessionBroker;
  /** What a reload of the configuration replaces; asked at each request. */
  readonly policy: () => Policy;
  /** Whether a request without a token is refused. */
  readonly tokensRequired: () => boolean;
  readonly identify: (owner: SocketOwner) => Identity | Promise<Identity>;
  readonly onRequest: (event: RequestEvent) => void;
}

/** The part of the configuration that decides over requests. */
export interface Policy {
  readonly rules: Rules;
  readonly categories: CategoryFilter;
  /** Authorities that a Host may name, in lower case: the metadata service's and our own. */
  readonly authorities: ReadonlySet<string>;
}

const ALLOWED_FOR_TOKEN = "OPTIONS, PUT";
const ALLOWED = "GET, HEAD";
/** The share of the upstream from which what we need ourselves is read. */
const OURSELVES = -1;

class Refusal {
  readonly status: number;
  readonly why: string;
  constructor(status: number, why: string) {
    this.status = status;
    this.why = why;
  }
}

/** Request in, answer out; everything that the proxy knows comes together here. */
export class Handler {
  readonly #options: HandlerOptions;

  constructor(options: HandlerOptions) {
    this.#options = options;
  }

  /** Answers one request. Never rejects: what goes wrong inside is a 503 without a word of why. */
  handle(request: Request, caller: Caller): Answer | Promise<Answer> {
    const event: { route: RequestEvent["route"]; why: string | undefined } = {
      route: "none",
      why: undefined,
    };
    const done = (answer: Answer): Answer => {
      this.#options.onRequest({
        subject: caller.kind === "unknown" ? null : subjectOf(caller),
        method: request.method,
        route: event.route,
        status: answer.status,
        why: event.why,
      });
      return answer;
    };
    const failed = (error: unknown): Answer => {
      const refusal = error instanceof AmbiguousIdentity ? new Refusal(403, error.message) : error;
      event.why =
        refusal instanceof Refusal
          ? refusal.why
          : `internal: ${error instanceof Error ? error.name : "unknown"}`;
      return done(errorPage(refusal instanceof Refusal ? refusal.status : 503));
    };
    try {
      const answer = this.#handle(request, caller, event);
      return answer instanceof Promise ? answer.then(done, failed) : done(answer);
    } catch (error) {
      return failed(error);
    }
  }

  #handle(
    request: Request,
    caller: Caller,
    event: { route: RequestEvent["route"]; why: string | undefined },
  ): Answer | Promise<Answer> {
    if (caller.kind === "unknown") {
      event.why = "the caller could not be identified";
      return { ...errorPage(403), close: true };
    }
    const { categories, authorities } = this.#options.policy();
    if (request.headers.has("x-forwarded-for")) throw new Refusal(403, "X-Forwarded-For");
    const host = request.headers.get("host");
    if (host !== undefined && !authorities.has(host.toLowerCase())) {
      throw new Refusal(403, "Host is no name of the metadata service");
    }
    const target = originForm(request.target, authorities);
    if (target === null)
      throw new Refusal(400, "the target is neither a path nor a URL of the metadata service");
    const route = parseRoute(target, categories);
    event.route = route.kind;
    if (route.kind === "refused-spelling") throw new Refusal(400, route.why);
    if (route.kind === "token") return this.#token(request, caller);
    if (route.kind === "token-of-version" && request.method === "PUT") return errorPage(403);
    if (request.method !== "GET" && request.method !== "HEAD")
      return { ...errorPage(405), body: "", allow: ALLOWED };

    const token = request.headers.get("x-aws-ec2-metadata-token");
    let tokenTtlSeconds: number | undefined;
    if (token !== undefined) {
      const check = this.#options.tokens.check(token, subjectOf(caller), this.#options.clock.now());
      if (!check.valid) throw new Refusal(401, "the token is wrong or expired");
      tokenTtlSeconds = check.remainingSeconds;
    } else if (this.#options.tokensRequired()) {
      throw new Refusal(401, "no token");
    }
    const answer = this.#get(route, caller);
    if (tokenTtlSeconds === undefined) return answer;
    const ttl = tokenTtlSeconds;
    return answer instanceof Promise
      ? answer.then((found) => ({ ...found, tokenTtlSeconds: ttl }))
      : { ...answer, tokenTtlSeconds: ttl };
  }

  #token(request: Request, caller: KnownCaller): Answer {
    if (request.method !== "PUT") return { ...errorPage(405), body: "", allow: ALLOWED_FOR_TOKEN };
    const ttl = parseTtl(request.headers.get("x-aws-ec2-metadata-token-ttl-seconds"));
    if (ttl === null) throw new Refusal(400, "the token's TTL is not 1 to 21600");
    return {
      ...text(this.#options.tokens.issue(subjectOf(caller), ttl, this.#options.clock.now())),
      tokenTtlSeconds: ttl,
    };
  }

  #get(route: Route, caller: KnownCaller): Answer | Promise<Answer> {
    switch (route.kind) {
      case "metadata":
        return route.listing ? this.#listing(route, caller) : this.#metadata(route, caller);
      case "versions":
        return this.#versions(caller);
      case "role-list":
      case "role-credentials":
      case "iam-info":
      case "iam-listing":
      case "whoami":
        return this.#personal(route, caller);
      default:
        return errorPage(404);
    }
  }

  #metadata(route: Route & { kind: "metadata" }, caller: KnownCaller): Answer | Promise<Answer> {
    const { metadata } = this.#options;
    const known = metadata.peek(route.version, route.path);
    if (known !== null) return metadataAnswer(known);
    return metadata.read(route.version, route.path, shareOf(caller)).then(metadataAnswer);
  }

  async #versions(caller: KnownCaller): Promise<Answer> {
    const found = await this.#options.metadata.read("", "", shareOf(caller));
    return metadataAnswer(found);
  }

  /** The upstream's listing, less what this caller cannot read, and with `iam/` where they have a role. */
  async #listing(route: Route & { kind: "metadata" }, caller: KnownCaller): Promise<Answer> {
    const { categories } = this.#options.policy();
    const found = await this.#options.metadata.read(route.version, route.path, shareOf(caller));
    if (found.kind !== "found") return metadataAnswer(found);
    const prefix = route.path === "" ? "" : `${route.path}/`;
    const lines = found.body.split("\n").filter((line) => {
      const name = line.trim().replace(/\/$/, "").replace(/=.*$/, "");
      return name !== "" && categories.leadsTo(`${prefix}${name}`);
    });
    if (route.path === "meta-data" && (await this.#decide(caller)).kind === "role") {
      lines.push("iam/");
      lines.sort();
    }
    return text(lines.join("\n"));
  }

  #identify(caller: KnownCaller): Identity | Promise<Identity> {
    return caller.kind === "owner" ? this.#options.identify(caller.owner) : containerIdentity(caller.address);
  }

  /** What depends on who asks. */
  #personal(route: Route, caller: KnownCaller): Answer | Promise<Answer> {
    const identity = this.#identify(caller);
    const instanceId = this.#instanceId();
    if (identity instanceof Promise || instanceId instanceof Promise) {
      return Promise.all([identity, instanceId]).then(([who, id]) => this.#answerFor(route, caller, who, id));
    }
    return this.#answerFor(route, caller, identity, instanceId);
  }

  #answerFor(
    route: Route,
    caller: KnownCaller,
    identity: Identity,
    instanceId: string | null,
  ): Answer | Promise<Answer> {
    const decision = this.#options.policy().rules.decide(identity, instanceId);
    const { broker } = this.#options;
    if (route.kind === "whoami") return whoamiDocument(identity, decision, broker);
    if (decision.kind === "refuse") return errorPage(404);
    const name = parseRoleArn(decision.roleArn)?.name;
    switch (route.kind) {
      case "iam-listing":
        return text("info\nsecurity-credentials/");
      case "iam-info":
        return infoDocument(decision.roleArn, this.#options.clock.now());
      case "role-list":
        // The credentials are asked for next: by then they shall be there.
        broker.prepare(decision.request, shareOf(caller));
        return name === undefined ? errorPage(404) : text(name);
      case "role-credentials":
        if (route.name !== name) return errorPage(404);
        return broker.get(decision.request, shareOf(caller)).then(credentialsDocument);
      default:
        return errorPage(404);
    }
  }

  async #decide(caller: KnownCaller): Promise<Decision> {
    const [identity, instanceId] = await Promise.all([this.#identify(caller), this.#instanceId()]);
    return this.#options.policy().rules.decide(identity, instanceId);
  }

  /** The node's instance id where a template names it. @throws Refusal 503 where the upstream does not tell it. */
  #instanceId(): string | null | Promise<string | null> {
    if (!this.#options.policy().rules.needs.instanceId) return null;
    const { metadata } = this.#options;
    const known = metadata.peek("latest", "meta-data/instance-id");
    if (known !== null) return instanceIdOf(known);
    return metadata.read("latest", "meta-data/instance-id", OURSELVES).then(instanceIdOf);
  }
}

function metadataAnswer(found: UpstreamAnswer): Answer {
  switch (found.kind) {
    case "found":
      return found.lastModifiedMs === null
        ? text(found.body)
        : { ...text(found.body), lastModifiedMs: found.lastModifiedMs };
    case "absent":
      return errorPage(404);
    case "failed":
      return errorPage(503);
  }
}

function instanceIdOf(found: UpstreamAnswer): string | null {
  // A session name without the node would be another name, and another session, a minute later.
  if (found.kind === "failed") throw new Refusal(503, `the instance id cannot be had: ${found.why}`);
  return found.kind === "found" ? found.body.trim() : null;
}
