import type { CategoryFilter } from "../config/categories.ts";
import { describeUnforeseen, ImdsProxyError } from "../errors.ts";
import { type Answer, errorPage, isRepeated, repeated, text } from "../http/answer.ts";
import type { Request } from "../http/request.ts";
import { NamesUnavailable } from "../identity/accounts.ts";
import { type Caller, type KnownCaller, type Subject, shareOf, subjectOf } from "../identity/caller.ts";
import type { SocketOwner } from "../identity/lookup.ts";
import { AmbiguousIdentity } from "../identity/resolver.ts";
import { type Identity, UNKNOWN_IDENTITY } from "../identity/types.ts";
import type { Clock } from "../platform/clock.ts";
import type { Decision, Rules } from "../rules/decide.ts";
import { parseRoleArn } from "../sessions/arn.ts";
import type { FirstAttempt, SessionBroker } from "../sessions/broker.ts";
import type { SessionOutcome, SessionRequest } from "../sessions/types.ts";
import type { MetadataCache, UpstreamAnswer } from "../upstream/cache.ts";
import { CheckedTokens } from "./checked-tokens.ts";
import { credentialsDocument, infoDocument } from "./documents.ts";
import { Holding } from "./holding.ts";
import { IssuedTokens, ttlHeader } from "./issued-tokens.ts";
import type { OwnFailure } from "./own-failure.ts";
import { parseRoute, type Route } from "./routes.ts";
import { originForm } from "./target.ts";
import { parseTtl, type TokenMint } from "./tokens.ts";
import { jsonAnswer, whoamiDocument } from "./whoami.ts";

const containerIdentity = (address: string): Identity => ({ ...UNKNOWN_IDENTITY, container: address });

/** What the audit, the log and the metrics get to know of a request. Holds no secret. */
export type RequestEvent = {
  /** A uid, a container's address, or null where neither is known. */
  readonly subject: Subject | null;
  readonly caller: Caller;
  readonly method: string;
  /** 2 where the request had a token or asked for one. */
  readonly imdsVersion: 1 | 2;
  /** Milliseconds from the request's turn to its answer. */
  readonly tookMs: number;
  /** Who the caller is and what the rules say for them; null where the answer did not depend on it. */
  readonly decided: Decided | null;
  /** Names the session whose credentials the answer has; null where it has none. Not a secret. */
  readonly accessKeyId: string | null;
  /** Why STS gave no session for the caller's role, in words that the caller may read; null where it did, or was not asked. */
  readonly failure: { readonly kind: "denied" | "unavailable"; readonly message: string } | null;
  readonly route: Route["kind"] | "none";
  readonly status: number;
  /** The reason of a refusal. */
  readonly why?: string | undefined;
  /** The kind of the refusal, for a metric's label; null where the request was not refused. */
  readonly refusal: RefusalKind | null;
};

/**
 * Kinds of refusals.
 * - `rule`: the rules give this caller no role. `role`: the caller asked for a role that is not theirs.
 * - `identity`: nobody can say who asks. `request`: the target, Host or another header is not one that is taken.
 * - `token`: a token is missing, wrong or expired. `unavailable`: something that is needed cannot be had for now.
 */
export type RefusalKind = "rule" | "role" | "identity" | "request" | "token" | "unavailable";

export interface HandlerOptions {
  readonly clock: Clock;
  /** Milliseconds of a monotonic clock. */
  readonly monotonicMs: () => number;
  readonly tokens: TokenMint;
  readonly metadata: MetadataCache;
  readonly broker: SessionBroker;
  /** The current policy, which a reload of the configuration replaces. Called once for each request. */
  readonly policy: () => Policy;
  /**
   * The region in which the node is, where a text of the rules needs it; null where nobody tells it. Absent: nobody does.
   *
   * @throws or rejects while the upstream does not answer.
   */
  readonly region?: () => Promise<string | null>;
  /** Whether requests without a token are refused; null until the upstream has shown whether it refuses them. */
  readonly tokensRequired: () => boolean | null;
  readonly onRequest: (event: RequestEvent) => void;
  /** The failures that are known. */
  readonly health: {
    /** Everything that keeps callers from their credentials, as a JSON value; for root alone. */
    document(): Promise<object>;
    /** The last failure of one session, for its caller. */
    ownFailure(request: SessionRequest): OwnFailure | null;
  };
  /** How far the event loop is behind, in milliseconds. */
  readonly lagMs: () => number;
  /**
   * Called for each process that asks for credentials which the rules give it. Its cgroup is null where no rule needs it. `nowMs` is when
   * the request came, in milliseconds since the epoch.
   */
  readonly onAsked?: (owner: Pick<SocketOwner, "uid" | "cgroupId">, user: Subject, nowMs: number) => void;
}

/** The part of the configuration that decides over requests. */
export interface Policy {
  readonly rules: Rules;
  /** The identity of a socket's owner, with the parts that the rules need. */
  readonly identify: (owner: SocketOwner) => Identity | Promise<Identity>;
  readonly categories: CategoryFilter;
  /** Authorities that a Host may name, in lower case: the metadata service's and our own. */
  readonly authorities: ReadonlySet<string>;
}

/** The value of the header Server, which is that of EC2's metadata service. */
export const SERVER_NAME = "EC2ws";

/** In lower case, as {@link Request} has the names of headers. */
const TOKEN_HEADER = "x-aws-ec2-metadata-token";
/** What a step gives: at once where nothing has to be waited for. See docs/benchmarks.md for what promises cost. */
type Soon<T> = T | Promise<T>;

/** Goes on with what a step gives. */
const next = <T, U>(given: Soon<T>, goOn: (value: T) => Soon<U>): Soon<U> =>
  given instanceof Promise ? given.then(goOn) : goOn(given);

const ALLOWED_FOR_TOKEN = "OPTIONS, PUT";
const ALLOWED = "GET, HEAD";
/** The subject under which the proxy's own requests to the upstream are counted. */
const OURSELVES = -1;
/** Milliseconds for which the look-up of a caller's first session is remembered, and for how many callers. */
const LOOKED_MS = 1_000;
const MAX_LOOKED = 4_096;
/** The most lifetimes of tokens that are given with one kept answer: the seconds left change meanwhile. */
const MAX_TTLS = 64;

class Refusal {
  readonly status: number;
  readonly kind: RefusalKind;
  readonly why: string;
  constructor(status: number, kind: RefusalKind, why: string) {
    this.status = status;
    this.kind = kind;
    this.why = why;
  }
}

/** The refusal that an expected error means for the caller; null for an unexpected error. */
function refusalOf(error: unknown): Refusal | null {
  if (error instanceof Refusal) return error;
  if (error instanceof AmbiguousIdentity) return new Refusal(403, "identity", error.message);
  if (error instanceof NamesUnavailable) return new Refusal(503, "unavailable", error.message);
  return null;
}

/** What becomes known of a request while it is handled, for its event. */
interface Notes {
  route: RequestEvent["route"];
  why: string | undefined;
  refusal: RefusalKind | null;
  decided: Decided | null;
  accessKeyId: string | null;
  failure: RequestEvent["failure"];
}

const noNotes = (): Notes => ({
  route: "none",
  why: undefined,
  refusal: null,
  decided: null,
  accessKeyId: null,
  failure: null,
});

/** One request, with the policy that was current when it came. */
interface Task {
  readonly caller: KnownCaller;
  readonly policy: Policy;
  readonly notes: Notes;
  /** When it came: milliseconds since the epoch. For what is done at once; what waits reads the clock again. */
  readonly nowMs: number;
}

/** The look-up of a caller's first session. */
interface Looked {
  readonly atMs: number;
  /** Null as soon as it is known that there is nothing to wait for. */
  attempt: Promise<FirstAttempt | null> | null;
}

/** What a request's head says, apart from its token. */
interface Parsed {
  readonly policy: Policy;
  readonly route: Route;
}

/** Answers the requests of the metadata service. */
export class Handler {
  readonly #options: HandlerOptions;
  readonly #holding: Holding;
  readonly #checked: CheckedTokens;
  readonly #issued: IssuedTokens;
  /** First sessions that were looked up for requests of tokens, by caller; valid under `#lookedUnder` alone. */
  readonly #looked = new Map<string, Looked>();
  #lookedUnder: Policy | null = null;
  /** What was made of requests: http/recent-heads.ts gives the same one again. */
  readonly #parsed = new WeakMap<Request, Parsed>();
  /** What was decided for identities: identity/resolver.ts gives the same one again. */
  readonly #decided = new WeakMap<Identity, KeptDecision>();
  /** Answers that are given again, with the lives of the tokens that were used last. */
  readonly #withTtl = new WeakMap<Answer, Map<number, Answer>>();

  constructor(options: HandlerOptions) {
    this.#options = options;
    this.#holding = new Holding(options);
    this.#checked = new CheckedTokens(options.tokens);
    this.#issued = new IssuedTokens(options.tokens);
  }

  /**
   * Answers one request; at once where nothing has to be waited for. Never throws or rejects: an error inside is a 503, whose
   * cause is in the log alone.
   *
   * @param turnMs when the request's turn began, by the clock of `monotonicMs`; default now.
   */
  handle(request: Request, caller: Caller, turnMs = this.#options.monotonicMs()): Soon<Answer> {
    const notes = noNotes();
    let answer: Soon<Answer>;
    try {
      answer = this.#handle(request, caller, notes);
    } catch (error) {
      answer = failed(error, notes);
    }
    if (!(answer instanceof Promise)) return this.#told(answer, request, caller, notes, turnMs);
    return answer
      .catch((error) => failed(error, notes))
      .then((given) => this.#told(given, request, caller, notes, turnMs));
  }

  #told(answer: Answer, request: Request, caller: Caller, notes: Notes, turnMs: number): Answer {
    this.#options.onRequest({
      subject: caller.kind === "unknown" ? null : subjectOf(caller),
      caller,
      method: request.method,
      imdsVersion: notes.route === "token" || request.headers.has(TOKEN_HEADER) ? 2 : 1,
      tookMs: this.#options.monotonicMs() - turnMs,
      decided: notes.decided,
      accessKeyId: notes.accessKeyId,
      failure: notes.failure,
      route: notes.route,
      status: answer.status,
      why: notes.why,
      refusal: notes.refusal,
    });
    return answer;
  }

  #handle(request: Request, caller: Caller, notes: Notes): Soon<Answer> {
    if (caller.kind === "unknown") {
      notes.refusal = "identity";
      notes.why = "the caller could not be identified";
      return { ...errorPage(403), close: true };
    }
    const policy = this.#options.policy();
    const nowMs = this.#options.clock.now();
    const task: Task = { caller, policy, notes, nowMs };
    const route = this.#routeOf(request, policy);
    notes.route = route.kind;
    if (route.kind === "refused-spelling") throw new Refusal(400, "request", route.why);
    if (route.kind === "token") return this.#token(request, task);
    if (route.kind === "token-of-version" && request.method === "PUT") return errorPage(403);
    if (request.method !== "GET" && request.method !== "HEAD")
      return { ...errorPage(405), body: "", allow: ALLOWED };

    const token = request.headers.get(TOKEN_HEADER);
    if (token === undefined) {
      const required = this.#options.tokensRequired();
      if (required) throw new Refusal(401, "token", "no token");
      if (required === null) {
        // Not 401: a client without tokens would give up for good, although the upstream may accept requests without one.
        const why =
          "the request has no token, and whether tokens are required is not known, because the upstream does not answer";
        throw new Refusal(503, "unavailable", why);
      }
      return this.#get(route, task);
    }
    const check = this.#checked.check(request, token, subjectOf(caller), nowMs);
    if (!check.valid) throw new Refusal(401, "token", "the token is wrong or expired");
    return next(this.#get(route, task), (answer) => this.#tellTtl(answer, check.remainingSeconds));
  }

  /** The route that a request's head leads to. @throws Refusal where the target or a header is not one that is taken. */
  #routeOf(request: Request, policy: Policy): Route {
    const known = this.#parsed.get(request);
    if (known?.policy === policy) return known.route;
    const { categories, authorities } = policy;
    if (request.headers.has("x-forwarded-for")) throw new Refusal(403, "request", "X-Forwarded-For");
    const host = request.headers.get("host");
    if (host !== undefined && !authorities.has(host.toLowerCase())) {
      throw new Refusal(403, "request", "Host is no name of the metadata service");
    }
    const target = originForm(request.target, authorities);
    if (target === null) {
      const why = "the target is neither a path nor a URL of the metadata service";
      throw new Refusal(400, "request", why);
    }
    const route = parseRoute(target, categories);
    this.#parsed.set(request, { policy, route });
    return route;
  }

  /** An answer with the remaining life of the token that was used. */
  #tellTtl(answer: Answer, seconds: number): Answer {
    let made = this.#withTtl.get(answer);
    if (made === undefined) {
      if (!isRepeated(answer)) return { ...answer, headers: ttlHeader(seconds) };
      made = new Map();
      this.#withTtl.set(answer, made);
    }
    const known = made.get(seconds);
    if (known !== undefined) return known;
    if (made.size >= MAX_TTLS) made.clear();
    const fresh = repeated({ ...answer, headers: ttlHeader(seconds) });
    made.set(seconds, fresh);
    return fresh;
  }

  #token(request: Request, task: Task): Soon<Answer> {
    if (request.method !== "PUT") return { ...errorPage(405), body: "", allow: ALLOWED_FOR_TOKEN };
    const ttl = parseTtl(request.headers.get("x-aws-ec2-metadata-token-ttl-seconds"));
    if (ttl === null) throw new Refusal(400, "request", "the token's TTL is not 1 to 21600");
    const answer = this.#issued.answer(subjectOf(task.caller), ttl, task.nowMs);
    const first = this.#early(task);
    if (first === null) return answer;
    return this.#holding.token(first, shareOf(task.caller)).then(() => answer);
  }

  /**
   * Begins the session of a caller who asks for a token, because a request for credentials usually follows. A failure is
   * not reported here: it is reported to the request that needs the session. Null where there is nothing to wait for.
   */
  #early(task: Task): Promise<FirstAttempt | null> | null {
    const { caller, policy, nowMs } = task;
    if (this.#lookedUnder !== policy) {
      this.#lookedUnder = policy;
      this.#looked.clear();
    }
    const cgroup = caller.kind === "owner" && policy.rules.needs.cgroup ? caller.owner.cgroupId : "";
    const key = `${subjectOf(caller)} ${cgroup}`;
    const known = this.#looked.get(key);
    if (known !== undefined && Math.abs(nowMs - known.atMs) < LOOKED_MS) return known.attempt;
    const looked: Looked = { atMs: nowMs, attempt: this.#begin(task) };
    void looked.attempt?.then((attempt) => {
      if (attempt === null) looked.attempt = null;
    });
    if (this.#looked.size >= MAX_LOOKED) this.#looked.clear();
    this.#looked.set(key, looked);
    return looked.attempt;
  }

  /**
   * Begins the session of a caller who is expected to ask for credentials, and does not wait for it.
   *
   * @param leave see SessionBroker.prepareEarly.
   */
  expect(caller: KnownCaller, leave: number): void {
    const nowMs = this.#options.clock.now();
    void this.#begin({ caller, policy: this.#options.policy(), notes: noNotes(), nowMs }, leave);
  }

  async #begin(task: Task, leave = 0): Promise<FirstAttempt | null> {
    try {
      const { decision } = await this.#decide(task);
      return decision.kind === "role"
        ? this.#options.broker.prepareEarly(decision.request, shareOf(task.caller), leave)
        : null;
    } catch {
      return null;
    }
  }

  #get(route: Route, task: Task): Soon<Answer> {
    switch (route.kind) {
      case "metadata":
        return route.listing ? this.#listing(route, task) : this.#metadata(route, task.caller);
      case "versions":
        return this.#metadata({ version: "", path: "" }, task.caller);
      case "health":
        // The document names roles and errors of other users, so it exists for root alone.
        return task.caller.kind === "owner" && task.caller.owner.uid === 0
          ? this.#options.health.document().then(jsonAnswer)
          : errorPage(404);
      case "role-list":
      case "role-credentials":
      case "iam-info":
      case "iam-listing":
      case "whoami":
        return this.#personal(route, task);
      default:
        return errorPage(404);
    }
  }

  #metadata({ version, path }: { version: string; path: string }, caller: KnownCaller): Soon<Answer> {
    return next(this.#read(version, path, shareOf(caller)), metadataAnswer);
  }

  #read(version: string, path: string, owner: Subject): Soon<UpstreamAnswer> {
    const { metadata } = this.#options;
    return metadata.peek(version, path) ?? metadata.read(version, path, owner);
  }

  /** The upstream's listing, less what this caller cannot read, and with `iam/` where they have a role. */
  async #listing(route: Route & { kind: "metadata" }, task: Task): Promise<Answer> {
    const found = await this.#options.metadata.read(route.version, route.path, shareOf(task.caller));
    if (found.kind !== "found") return metadataAnswer(found);
    const prefix = route.path === "" ? "" : `${route.path}/`;
    const lines = found.body.split("\n").filter((line) => {
      const name = line.trim().replace(/\/$/, "").replace(/=.*$/, "");
      return name !== "" && task.policy.categories.leadsTo(`${prefix}${name}`);
    });
    if (route.path === "meta-data" && (await this.#decide(task)).decision.kind === "role") {
      lines.push("iam/");
      lines.sort();
    }
    return text(lines.join("\n"));
  }

  /** The answers that depend on the caller. */
  #personal(route: Route, task: Task): Soon<Answer> {
    const decided = this.#decide(task);
    return decided instanceof Promise
      ? decided.then((known) => this.#personalOf(known, route, { ...task, nowMs: this.#options.clock.now() }))
      : this.#personalOf(decided, route, task);
  }

  #personalOf(decided: KeptDecision, route: Route, task: Task): Soon<Answer> {
    const { broker } = this.#options;
    const { caller, notes } = task;
    notes.decided = decided;
    const { identity, decision, roleName } = decided;
    if (route.kind === "whoami") {
      const failure = decision.kind === "role" ? this.#options.health.ownFailure(decision.request) : null;
      return whoamiDocument(identity, decision, broker, failure);
    }
    if (decision.kind === "refuse") {
      // A client takes 404 as "no role", and 503 as "ask again later".
      if (decision.passing === true) throw new Refusal(503, "unavailable", decision.reason);
      notes.refusal = "rule";
      notes.why = decision.reason;
      return errorPage(404);
    }
    switch (route.kind) {
      case "iam-listing":
        return text("info\nsecurity-credentials/");
      case "iam-info":
        return infoDocument(decision.roleArn, this.#options.clock.now());
      case "role-list": {
        if (roleName === undefined) return errorPage(404);
        // The request for the credentials follows: the session is begun now.
        const first = broker.prepare(decision.request, shareOf(caller));
        const list = text(roleName);
        return first === null ? list : this.#holding.list(first, shareOf(caller)).then(() => list);
      }
      case "role-credentials":
        if (route.name !== roleName) {
          notes.refusal = "role";
          notes.why = "asked for the credentials of a role by a name that is not the caller's role";
          return errorPage(404);
        }
        if (caller.kind === "owner") {
          const cgroupId = task.policy.rules.needs.cgroup ? caller.owner.cgroupId : null;
          this.#options.onAsked?.({ uid: caller.owner.uid, cgroupId }, shareOf(caller), task.nowMs);
        }
        return next(
          broker.getAtHand(decision.request, task.nowMs) ?? broker.get(decision.request, shareOf(caller)),
          (outcome) => this.#credentials(outcome, notes),
        );
      default:
        return errorPage(404);
    }
  }

  #credentials(outcome: SessionOutcome, notes: Notes): Answer {
    if (outcome.kind === "session") notes.accessKeyId = outcome.session.accessKeyId;
    else notes.failure = outcome;
    return credentialsDocument(outcome);
  }

  /** Identifies the caller and applies the rules, both by the request's policy, even if a new one is loaded meanwhile. */
  #decide({ caller, policy, nowMs }: Task): Soon<KeptDecision> {
    const identity =
      caller.kind === "owner" ? policy.identify(caller.owner) : containerIdentity(caller.address);
    const instanceId = this.#instanceId(policy, nowMs);
    const region = this.#region(policy);
    return identity instanceof Promise || instanceId instanceof Promise || region instanceof Promise
      ? Promise.all([identity, instanceId, region]).then(([who, which, where]) =>
          this.#decideFor(who, which, where, policy),
        )
      : this.#decideFor(identity, instanceId, region, policy);
  }

  #decideFor(
    identity: Identity,
    instanceId: string | null,
    region: string | null,
    policy: Policy,
  ): KeptDecision {
    const known = this.#decided.get(identity);
    if (known?.policy === policy && known.instanceId === instanceId && known.region === region) return known;
    const { rules } = policy;
    const decision = rules.decide(identity, instanceId, region);
    const roleName = decision.kind === "role" ? parseRoleArn(decision.roleArn)?.name : undefined;
    const decided: KeptDecision = {
      policy,
      instanceId,
      region,
      identity,
      decision,
      roleName,
      namedGroups: rules.namedGroups,
    };
    this.#decided.set(identity, decided);
    return decided;
  }

  /** The node's instance id where a template names it. @throws Refusal 503 where the upstream does not tell it. */
  #instanceId(policy: Policy, nowMs: number): Soon<string | null> {
    if (!policy.rules.needs.instanceId) return null;
    return next(
      this.#options.metadata.readLasting("latest", "meta-data/instance-id", OURSELVES, nowMs),
      instanceIdOf,
    );
  }

  /** The node's region where a template names it. @throws Refusal 503 where the upstream does not tell it. */
  #region(policy: Policy): Soon<string | null> {
    const { region } = this.#options;
    if (!policy.rules.needs.region || region === undefined) return null;
    // As with the instance id, the session would have another name than before.
    return region().catch((error) => {
      const why = error instanceof ImdsProxyError ? error.problem : describeUnforeseen(error);
      throw new Refusal(503, "unavailable", `the region is not known: ${why}`);
    });
  }
}

/** A caller's identity, and the decision of the rules. */
export interface Decided {
  readonly identity: Identity;
  readonly decision: Decision;
  /** The groups that any rule names. */
  readonly namedGroups: ReadonlySet<string>;
  /** The node's instance id by which it was decided; null where no text needs it. */
  readonly instanceId?: string | null;
  /** The node's region by which it was decided; null where no text needs it. */
  readonly region?: string | null;
}

/** A decision that is kept, with what it was made under. */
interface KeptDecision extends Decided {
  readonly policy: Policy;
  readonly instanceId: string | null;
  readonly region: string | null;
  /** The name in the role's ARN; undefined where there is no role. */
  readonly roleName: string | undefined;
}

/** The answer to a request that failed, with its cause in the notes. */
function failed(error: unknown, notes: Notes): Answer {
  const refusal = refusalOf(error);
  notes.refusal = refusal?.kind ?? "unavailable";
  notes.why = refusal?.why ?? `internal: ${describeUnforeseen(error)}`;
  return errorPage(refusal?.status ?? 503);
}

/** Answers of the upstream as ours. The cache gives the same one again, for as long as it keeps it. */
const metadataAnswers = new WeakMap<UpstreamAnswer, Answer>();

function metadataAnswer(found: UpstreamAnswer): Answer {
  switch (found.kind) {
    case "found": {
      const known = metadataAnswers.get(found);
      if (known !== undefined) return known;
      const { body, lastModifiedMs } = found;
      const answer = repeated(lastModifiedMs === null ? text(body) : { ...text(body), lastModifiedMs });
      metadataAnswers.set(found, answer);
      return answer;
    }
    case "absent":
      return errorPage(404);
    case "failed":
      return errorPage(503);
  }
}

function instanceIdOf(found: UpstreamAnswer): string | null {
  // Without the instance id the session would have another name now than a minute later.
  if (found.kind === "failed")
    throw new Refusal(503, "unavailable", `the instance id is not known: ${found.why}`);
  return found.kind === "found" ? found.body.trim() : null;
}
