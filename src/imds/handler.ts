import { describeUnforeseen } from "../errors.ts";
import { type Answer, errorPage, text } from "../http/answer.ts";
import type { Request } from "../http/request.ts";
import { type Caller, type KnownCaller, type Subject, shareOf, subjectOf } from "../identity/caller.ts";
import type { SocketOwner } from "../identity/lookup.ts";
import type { Clock } from "../platform/clock.ts";
import type { SessionBroker } from "../sessions/broker.ts";
import type { SessionOutcome, SessionRequest } from "../sessions/types.ts";
import type { UpstreamAnswer } from "../upstream/cache.ts";
import { CheckedTokens } from "./checked-tokens.ts";
import { Decisions, type DecisionsOptions, type KeptDecision, type Policy } from "./decisions.ts";
import { credentialsDocument, infoDocument } from "./documents.ts";
import { EarlySessions } from "./early-sessions.ts";
import { Holding } from "./holding.ts";
import { IssuedTokens } from "./issued-tokens.ts";
import { metadataAnswer, readableLines } from "./metadata-answers.ts";
import type { OwnFailure } from "./own-failure.ts";
import { Refusal, refusalOf } from "./refusal.ts";
import { RemainingLife } from "./remaining-life.ts";
import type { RequestEvent } from "./request-event.ts";
import { RequestRoutes } from "./request-routes.ts";
import type { Route } from "./routes.ts";
import { next, type Soon } from "./soon.ts";
import { parseTtl, type TokenMint } from "./tokens.ts";
import { jsonAnswer, whoamiDocument } from "./whoami.ts";

export interface HandlerOptions extends DecisionsOptions {
  readonly clock: Clock;
  /** Milliseconds of a monotonic clock. */
  readonly monotonicMs: () => number;
  readonly tokens: TokenMint;
  readonly broker: SessionBroker;
  /** The current policy, which a reload of the configuration replaces. Called once for each request. */
  readonly policy: () => Policy;
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

/** The value of the header Server, which is that of EC2's metadata service. */
export const SERVER_NAME = "EC2ws";

/** In lower case, as {@link Request} has the names of headers. */
const TOKEN_HEADER = "x-aws-ec2-metadata-token";
const ALLOWED_FOR_TOKEN = "OPTIONS, PUT";
const ALLOWED = "GET, HEAD";

/** What becomes known of a request while it is handled, for its event. */
interface Notes {
  route: RequestEvent["route"];
  why: string | undefined;
  refusal: RequestEvent["refusal"];
  decided: RequestEvent["decided"];
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

/** Answers the requests of the metadata service. */
export class Handler {
  readonly #options: HandlerOptions;
  readonly #holding: Holding;
  readonly #checked: CheckedTokens;
  readonly #issued: IssuedTokens;
  readonly #decisions: Decisions;
  readonly #early: EarlySessions;
  readonly #routes = new RequestRoutes();
  readonly #life = new RemainingLife();

  constructor(options: HandlerOptions) {
    this.#options = options;
    this.#holding = new Holding(options);
    this.#checked = new CheckedTokens(options.tokens);
    this.#issued = new IssuedTokens(options.tokens);
    this.#decisions = new Decisions(options);
    this.#early = new EarlySessions(this.#decisions, options.broker);
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
    const route = this.#routes.of(request, policy);
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
    return next(this.#get(route, task), (answer) => this.#life.tell(answer, check.remainingSeconds));
  }

  #token(request: Request, task: Task): Soon<Answer> {
    if (request.method !== "PUT") return { ...errorPage(405), body: "", allow: ALLOWED_FOR_TOKEN };
    const ttl = parseTtl(request.headers.get("x-aws-ec2-metadata-token-ttl-seconds"));
    if (ttl === null) throw new Refusal(400, "request", "the token's TTL is not 1 to 21600");
    const answer = this.#issued.answer(subjectOf(task.caller), ttl, task.nowMs);
    // A request for credentials usually follows.
    const first = this.#early.ofToken(task.caller, task.policy, task.nowMs);
    if (first === null) return answer;
    return this.#holding.token(first, shareOf(task.caller)).then(() => answer);
  }

  /**
   * Begins the session of a caller who is expected to ask for credentials, and does not wait for it.
   *
   * @param leave see SessionBroker.prepareEarly.
   */
  expect(caller: KnownCaller, leave: number): void {
    void this.#early.begin(caller, this.#options.policy(), this.#options.clock.now(), leave);
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
    const lines = readableLines(found.body, route.path, task.policy.categories);
    const later = { ...task, nowMs: this.#options.clock.now() };
    if (route.path === "meta-data" && (await this.#decide(later)).decision.kind === "role") {
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

  #decide({ caller, policy, nowMs }: Task): Soon<KeptDecision> {
    return this.#decisions.decide(caller, policy, nowMs);
  }
}

/** The answer to a request that failed, with its cause in the notes. */
function failed(error: unknown, notes: Notes): Answer {
  const refusal = refusalOf(error);
  notes.refusal = refusal?.kind ?? "unavailable";
  notes.why = refusal?.why ?? `internal: ${describeUnforeseen(error)}`;
  return errorPage(refusal?.status ?? 503);
}
