import { describe, expect, test } from "bun:test";
import type { Answer } from "../../src/http/answer.ts";
import type { Caller } from "../../src/identity/caller.ts";
import type { SocketOwner } from "../../src/identity/lookup.ts";
import type { RefusalKind } from "../../src/imds/refusal.ts";
import type { RequestEvent } from "../../src/imds/request-event.ts";
import { TokenMint } from "../../src/imds/tokens.ts";
import { MetadataCache, type UpstreamAnswer } from "../../src/upstream/cache.ts";
import { denied, passing } from "../sessions/support.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { aHandler, callerOf, identityOf, policyOf, ROLE } from "./support.ts";

/**
 * Every route x method x token x caller x decision, each with the answer that it must have. What must be is written here
 * as the gates that a request passes, in their order (`expected`), and shares no code with the handler.
 */

const CALLERS = {
  alice: callerOf(2001),
  root: callerOf(0),
  "a container": { kind: "container", address: "172.17.0.2" },
  "nobody known": { kind: "unknown" },
} satisfies Record<string, Caller>;
type CallerName = keyof typeof CALLERS;

const METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "get"];

/** `required` and the like: no token, where the configuration wants one. The others carry one where none is wanted. */
const TOKENS = ["optional", "required", "not yet known", "good", "another's", "expired", "garbage"] as const;
type Token = (typeof TOKENS)[number];

const DECISIONS = [
  "role",
  "role, denied by STS",
  "role, STS away",
  "no role",
  "names cannot be told",
] as const;
type DecisionName = (typeof DECISIONS)[number];

type Kind = RequestEvent["route"];
const ROUTES: [target: string, kind: Kind][] = [
  ["/", "versions"],
  ["/latest", "metadata"],
  ["/2021-03-23/", "metadata"],
  ["/latest/meta-data/", "metadata"],
  ["/latest/meta-data/instance-id", "metadata"],
  ["/1.0//meta-data/instance-id/", "metadata"],
  ["/latest/meta-data/spot/instance-action", "metadata"],
  ["/latest/meta-data/hostname", "metadata"],
  ["/latest/api/token", "token"],
  ["/2021-03-23/api/token", "token-of-version"],
  ["/latest/meta-data/iam", "iam-listing"],
  ["/latest/meta-data/iam/info", "iam-info"],
  ["/latest/meta-data/iam/security-credentials", "role-list"],
  ["/latest/meta-data/iam/security-credentials/", "role-list"],
  ["/latest/meta-data/iam/security-credentials/ImdsProxyTestRole", "role-credentials"],
  ["/latest/meta-data/iam/security-credentials/InstanceRole", "role-credentials"],
  ["/imdsproxy/whoami", "whoami"],
  ["/imdsproxy/health", "health"],
  ["/imdsproxy/other", "not-found"],
  ["/latest/user-data", "not-found"],
  ["/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance", "not-found"],
  ["/latest/meta-data/of-tomorrow", "not-found"],
  ["/latest/meta-data/../user-data", "refused-spelling"],
  ["/latest/meta-data%00", "refused-spelling"],
];

/** What the stand-in for the upstream answers; everything else is absent there. */
const UPSTREAM: Record<string, UpstreamAnswer> = {
  "": found("1.0\nlatest"),
  "latest/": found("dynamic\nmeta-data\nuser-data"),
  "2021-03-23/": found("dynamic\nmeta-data\nuser-data"),
  "latest/meta-data": found("ami-id\nhostname\niam/\nidentity-credentials/\ninstance-id"),
  "latest/meta-data/instance-id": found("i-0123"),
  "1.0/meta-data/instance-id": found("i-0123"),
  "latest/meta-data/hostname": { kind: "failed", why: "away" },
};
function found(body: string): UpstreamAnswer {
  return { kind: "found", body, lastModifiedMs: null };
}

interface Expected {
  readonly status: number;
  readonly refusal: RefusalKind | null;
  /** What the body is, or what it must hold. */
  readonly body?: string | RegExp;
  readonly allow?: string;
  readonly close?: true;
}
const page = (status: number, refusal: RefusalKind | null = null): Expected => ({
  status,
  refusal,
  body: new RegExp(`<title>${status} - `),
});
const ok = (body: string | RegExp): Expected => ({ status: 200, refusal: null, body });
const wrongMethod = (allow: string): Expected => ({ status: 405, refusal: null, body: "", allow });

function expected(
  [target, kind]: (typeof ROUTES)[number],
  method: string,
  token: Token,
  caller: CallerName,
  decision: DecisionName,
): Expected {
  // 1. Who asks. Their connection ends, for it will never be anybody's.
  if (caller === "nobody known") return { ...page(403, "identity"), close: true };
  // 2. What is asked for, before how.
  if (kind === "refused-spelling") return page(400, "request");
  // 3. The method.
  if (kind === "token") return method === "PUT" ? ok(/^[A-Za-z0-9_-]{56}$/) : wrongMethod("OPTIONS, PUT");
  if (kind === "token-of-version" && method === "PUT") return page(403);
  if (method !== "GET" && method !== "HEAD") return wrongMethod("GET, HEAD");
  // 4. The token. One that is there counts, whether one is wanted or not.
  if (token === "required") return page(401, "token");
  if (token === "not yet known") return page(503, "unavailable");
  if (token === "another's" || token === "expired" || token === "garbage") return page(401, "token");
  // 5. What everybody gets alike.
  const isRole =
    decision.startsWith("role") || (decision === "names cannot be told" && caller === "a container");
  switch (target.replaceAll(/\/+/g, "/").replace(/(?<=.)\/$/, "")) {
    case "/":
      return ok("1.0\nlatest");
    case "/latest":
    case "/2021-03-23":
      return ok("dynamic\nmeta-data");
    case "/latest/meta-data":
      return ok(isRole ? "ami-id\nhostname\niam/\ninstance-id" : "ami-id\nhostname\ninstance-id");
    case "/latest/meta-data/instance-id":
    case "/1.0/meta-data/instance-id":
      return ok("i-0123");
    case "/latest/meta-data/hostname":
      return page(503);
    case "/imdsproxy/whoami":
      return ok(isRole ? /"roleName":"ImdsProxyTestRole"/ : /"role":null/);
    case "/imdsproxy/health":
      return caller === "root" ? ok('{"problems":[]}') : page(404);
  }
  if (kind === "not-found" || kind === "metadata" || kind === "token-of-version") return page(404);
  // 6. What the rules say.
  if (decision === "no role") return page(404, "rule");
  if (!isRole) return page(503, "unavailable");
  // 7. What a role has.
  if (kind === "iam-listing") return ok("info\nsecurity-credentials/");
  if (kind === "iam-info")
    return ok(/"InstanceProfileArn": "arn:aws:iam::842413447717:instance-profile\/ImdsProxyTestRole"/);
  if (kind === "role-list") return ok("ImdsProxyTestRole");
  if (target.endsWith("/InstanceRole")) return page(404, "role");
  if (decision === "role, denied by STS") return ok(/"Code": "AssumeRoleUnauthorizedAccess"/);
  if (decision === "role, STS away") return page(503);
  return ok(/"Code": "Success"[\s\S]*"SecretAccessKey": "secret-of-\d+"/);
}

const POLICIES: Record<DecisionName, ReturnType<typeof policyOf>> = {
  role: policyOf({ role: ROLE }),
  "role, denied by STS": policyOf({ role: ROLE }),
  "role, STS away": policyOf({ role: ROLE }),
  "no role": policyOf({}),
  "names cannot be told": policyOf(
    { role: ROLE, rules: [{ name: "blocked", match: { group: "blocked" }, role: "none" }] },
    (owner: SocketOwner) => ({ ...identityOf(owner), groupsUnavailable: "sss (unavailable)" }),
  ),
};

/** A handler of which everything but the request is as named, and what its upstream was asked. */
function aWorld(token: Token, decision: DecisionName) {
  const asked: string[] = [];
  const askedBy: unknown[] = [];
  const world = aHandler({
    policy: () => POLICIES[decision],
    tokensRequired: () => (token === "required" ? true : token === "not yet known" ? null : false),
    onAsked: (owner) => askedBy.push(owner.uid),
    metadata: new MetadataCache({
      clock: new FakeClock(),
      source: {
        read: async (version, path) => {
          const place = version === "" ? path : `${version}/${path}`;
          asked.push(place);
          return UPSTREAM[place] ?? { kind: "absent" };
        },
      },
    }),
  });
  world.sts.failing =
    decision === "role, denied by STS" ? denied : decision === "role, STS away" ? () => passing() : null;
  return { ...world, asked, askedBy };
}

/** The header that a token of this kind is sent in. */
function headersFor(token: Token, caller: Caller, nowMs: number): Record<string, string> {
  const mint = new TokenMint(new Uint8Array(32).fill(7));
  const subject =
    caller.kind === "owner" ? caller.owner.uid : caller.kind === "container" ? caller.address : 4711;
  const sent: Partial<Record<Token, string>> = {
    good: mint.issue(subject, 600, nowMs),
    "another's": mint.issue(2002, 600, nowMs),
    expired: mint.issue(subject, 600, nowMs - 600_000),
    garbage: "x".repeat(56),
  };
  const text = sent[token];
  return text === undefined ? {} : { "x-aws-ec2-metadata-token": text };
}

const TTL = { "x-aws-ec2-metadata-token-ttl-seconds": "21600" };

/** What differs from what must be, in a line; null where nothing does. */
function difference(
  answer: Answer,
  event: RequestEvent | undefined,
  must: Expected,
  kind: Kind,
): string | null {
  const matches = must.body instanceof RegExp ? must.body.test(answer.body) : must.body === answer.body;
  const got = [
    answer.status,
    event?.refusal,
    event?.status,
    event?.route,
    answer.allow,
    answer.close,
    matches,
  ];
  const route = must.close ? "none" : kind;
  const want = [must.status, must.refusal, must.status, route, must.allow, must.close, true];
  return Bun.deepEquals(got, want) ? null : `${JSON.stringify(got)}, not ${JSON.stringify(want)}`;
}

for (const name of Object.keys(CALLERS) as CallerName[]) {
  const caller: Caller = CALLERS[name];
  describe(`to ${name},`, () => {
    for (const route of ROUTES) {
      const [target, kind] = route;
      test(`${target}, by every method, with every token and every decision`, async () => {
        const wrong: string[] = [];
        for (const token of TOKENS) {
          for (const decision of DECISIONS) {
            for (const method of METHODS) {
              const world = aWorld(token, decision);
              const headers = { ...TTL, ...headersFor(token, caller, world.clock.now()) };
              const pending = world.ask(caller, method, target, headers);
              await world.clock.advance(1_000);
              const answer = await pending;
              const must = expected(route, method, token, name, decision);
              const label = `${method}, token ${token}, ${decision}`;
              const different = difference(answer, world.events[0], must, kind);
              if (different !== null) wrong.push(`${label}: ${different}`);
              if (world.events.length !== 1) wrong.push(`${label}: ${world.events.length} events`);

              // A session leaves by one door.
              const isSession =
                kind === "role-credentials" && must.status === 200 && !decision.startsWith("role, ");
              if (answer.body.includes("secret-of-") !== isSession) wrong.push(`${label}: a session`);
              // Who is not to have a role costs STS nothing.
              const mayAsk = ["token", "role-list", "role-credentials"].includes(kind) && must.status !== 405;
              if (world.sts.calls > 0 && (!mayAsk || must.refusal !== null))
                wrong.push(`${label}: STS asked`);
              // Of the upstream, only what is in the table, and nothing at all for a request that passes no gate.
              const foreign = world.asked.filter(
                (place) => !(place in UPSTREAM) && place !== "latest/meta-data/spot/instance-action",
              );
              const atGate = ["identity", "request", "token"].includes(must.refusal ?? "");
              if (foreign.length > 0 || (atGate && world.asked.length > 0))
                wrong.push(`${label}: the upstream was asked ${world.asked}`);
              // A process that asked for its own credentials is noted, for a restart; a container is no process.
              const noted = kind === "role-credentials" && must.refusal === null && must.status !== 405;
              if (world.askedBy.length !== Number(noted && caller.kind === "owner"))
                wrong.push(`${label}: noted ${world.askedBy}`);
              // A token that was good says how long it still is; the one that was made, how long it is in all.
              const accepted = token === "good" && ["GET", "HEAD"].includes(method) && kind !== "token";
              const made = kind === "token" && must.status === 200;
              const isToSay = accepted && !atGate && must.refusal !== "unavailable";
              const ttl = made ? 21_600 : isToSay ? 600 : undefined;
              const told = answer.headers?.["X-Aws-Ec2-Metadata-Token-Ttl-Seconds"];
              if (told !== (ttl === undefined ? ttl : String(ttl))) wrong.push(`${label}: TTL ${told}`);
            }
          }
        }
        expect(wrong).toEqual([]);
      });
    }
  });
}

describe("headers come before the route:", () => {
  const HOSTS: [host: string | null, status: number][] = [
    ["169.254.169.254", 200],
    ["169.254.169.254:80", 403],
    ["METADATA.example", 403],
    ["", 403],
    ["evil.example", 403],
    [null, 200],
  ];
  for (const [host, status] of HOSTS) {
    test(`Host ${host === null ? "absent" : JSON.stringify(host)} is ${status}, on each route, whatever the token`, async () => {
      const world = aWorld("required", "role");
      for (const [target, kind] of ROUTES) {
        const headers = new Map(Object.entries(TTL));
        if (host !== null) headers.set("host", host);
        const method = "PUT";
        const answer = await world.handler.handle(
          { method, target, headers, keepAlive: true, bodyLength: 0, emptyChunks: false },
          CALLERS.alice,
        );
        if (status === 403) expect([target, answer.status]).toEqual([target, 403]);
        else if (kind === "token") expect(answer.status).toBe(200);
        else expect([target, answer.status]).not.toEqual([target, 200]);
      }
    });
  }

  test("X-Forwarded-For is 403 on each route, with a good token and any value", async () => {
    const world = aWorld("good", "role");
    for (const [target] of ROUTES) {
      for (const method of ["GET", "PUT"]) {
        const headers = {
          ...TTL,
          ...headersFor("good", CALLERS.alice, world.clock.now()),
          "x-forwarded-for": "",
        };
        expect([target, (await world.ask(CALLERS.alice, method, target, headers)).status]).toEqual([
          target,
          403,
        ]);
        expect(world.events.at(-1)).toMatchObject({ refusal: "request", route: "none" });
      }
    }
    expect([world.sts.calls, world.asked]).toEqual([0, []]);
  });

  test("a PUT without a sound TTL is 400, and no session is begun for it", async () => {
    const world = aWorld("optional", "role");
    for (const ttl of [undefined, "", "0", "21601", "-1", "1.5", "60 ", "0x10", "1e3", "٦٠"]) {
      const headers: Record<string, string> =
        ttl === undefined ? {} : { "x-aws-ec2-metadata-token-ttl-seconds": ttl };
      const answer = await world.ask(CALLERS.alice, "PUT", "/latest/api/token", headers);
      expect([ttl, answer.status]).toEqual([ttl, 400]);
      expect(world.events.at(-1)).toMatchObject({ refusal: "request", route: "token" });
    }
    expect(world.sts.calls).toBe(0);
  });
});
