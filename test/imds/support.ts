import { categoryFilter } from "../../src/config/categories.ts";
import { configSchema } from "../../src/config/schema.ts";
import type { Answer } from "../../src/http/answer.ts";
import type { Request } from "../../src/http/request.ts";
import type { Caller, KnownCaller } from "../../src/identity/caller.ts";
import type { SocketOwner } from "../../src/identity/lookup.ts";
import type { Identity } from "../../src/identity/types.ts";
import type { Policy } from "../../src/imds/decisions.ts";
import { Handler, type HandlerOptions } from "../../src/imds/handler.ts";
import type { RequestEvent } from "../../src/imds/request-event.ts";
import { TokenMint } from "../../src/imds/tokens.ts";
import { compileRules } from "../../src/rules/decide.ts";
import type { BrokerOptions } from "../../src/sessions/broker.ts";
import { MetadataCache, type UpstreamAnswer } from "../../src/upstream/cache.ts";
import { aBroker } from "../sessions/support.ts";

/** The role of every configuration here, and its name. */
export const ROLE = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";
export const LIST = "/latest/meta-data/iam/security-credentials/";
export const CREDENTIALS = `${LIST}ImdsProxyTestRole`;
export const TOKEN = "/latest/api/token";

/** A process of this node with this uid. */
export const callerOf = (uid: number, cgroupId: bigint | null = null): KnownCaller => ({
  kind: "owner",
  owner: { uid, cgroupId, redirected: true },
  share: uid,
});

/** What the names and cgroups of this node make of a socket's owner, where a test wants no other. */
export const identityOf = (owner: SocketOwner): Identity => ({
  uid: owner.uid,
  container: null,
  user: `user${owner.uid}`,
  subordinate: false,
  groups: [],
  cgroup: "/user.slice",
  slurmJobId: null,
});

/** The policy of a configuration, given as the file would have it. */
export function policyOf(
  config: object = { role: ROLE },
  identify: (owner: SocketOwner) => Identity | Promise<Identity> = identityOf,
): Policy {
  return {
    rules: compileRules(configSchema.parse(config)),
    identify,
    categories: categoryFilter([], []),
    authorities: new Set(["169.254.169.254"]),
  };
}

export const request = (
  method: string,
  target: string,
  headers: Readonly<Record<string, string>> = {},
): Request => ({
  method,
  target,
  headers: new Map(Object.entries(headers)),
  keepAlive: true,
  bodyLength: 0,
  emptyChunks: false,
});

/** A handler with a clock to turn, an STS to command, and an upstream that knows the instance id alone. */
export function aHandler(options: Partial<HandlerOptions> & { session?: Partial<BrokerOptions> } = {}): Omit<
  ReturnType<typeof aBroker>,
  "events"
> & {
  readonly handler: Handler;
  readonly events: RequestEvent[];
  /** Asks as this caller; the events are in `events`. */
  ask(caller: Caller, method: string, target: string, headers?: Record<string, string>): Promise<Answer>;
  putToken(caller: Caller): Promise<Answer>;
} {
  const { session, ...rest } = options;
  const made = aBroker(session);
  const { clock, broker } = made;
  const events: RequestEvent[] = [];
  const known: UpstreamAnswer = { kind: "found", body: "i-0123", lastModifiedMs: null };
  const handler = new Handler({
    clock,
    monotonicMs: () => 0,
    tokens: new TokenMint(new Uint8Array(32).fill(7)),
    metadata: new MetadataCache({
      clock,
      source: {
        read: async (_version, path) => (path === "meta-data/instance-id" ? known : { kind: "absent" }),
      },
    }),
    broker,
    policy: () => STANDARD,
    tokensRequired: () => false,
    onRequest: (event) => void events.push(event),
    health: { document: async () => ({ problems: [] }), ownFailure: () => null },
    lagMs: () => 0,
    ...rest,
  });
  const ask = async (
    caller: Caller,
    method: string,
    target: string,
    headers: Record<string, string> = {},
  ): Promise<Answer> =>
    handler.handle(request(method, target, { host: "169.254.169.254", ...headers }), caller);
  const putToken = (caller: Caller) =>
    ask(caller, "PUT", TOKEN, { "x-aws-ec2-metadata-token-ttl-seconds": "60" });
  return { ...made, handler, events, ask, putToken };
}

const STANDARD = policyOf();
