import { describe, expect, spyOn, test } from "bun:test";
import { NamesUnavailable } from "../../src/identity/accounts.ts";
import type { SocketOwner } from "../../src/identity/lookup.ts";
import type { Identity } from "../../src/identity/types.ts";
import type { Policy } from "../../src/imds/decisions.ts";
import { aHandler, CREDENTIALS, callerOf, identityOf, LIST, policyOf, ROLE, request } from "./support.ts";

const ALICE = callerOf(2001);

describe("a refusal is told with its reason and its kind:", () => {
  const told: [
    name: string,
    config: object,
    target: string,
    headers: Record<string, string>,
    expected: object,
  ][] = [
    [
      "a rule without a role",
      { role: ROLE, rules: [{ name: "guests", match: { uid: [2001] }, role: "none" }] },
      LIST,
      {},
      { status: 404, refusal: "rule", why: 'rule "guests" gives no role' },
    ],
    [
      "no rule and no default role",
      {},
      CREDENTIALS,
      {},
      { status: 404, refusal: "rule", why: "no rule matched, and there is no default role" },
    ],
    ["another role's name", { role: ROLE }, `${LIST}InstanceRole`, {}, { status: 404, refusal: "role" }],
    [
      "a Host that is not ours",
      { role: ROLE },
      LIST,
      { host: "evil.example" },
      { status: 403, refusal: "request" },
    ],
    [
      "a wrong token",
      { role: ROLE },
      LIST,
      { "x-aws-ec2-metadata-token": "x" },
      { status: 401, refusal: "token" },
    ],
    ["an odd spelling", { role: ROLE }, "/latest/../x", {}, { status: 400, refusal: "request" }],
  ];
  for (const [name, config, target, headers, expected] of told) {
    test(name, async () => {
      const policy = policyOf(config);
      const { ask, events } = aHandler({ policy: () => policy });
      await ask(ALICE, "GET", target, headers);
      expect(events).toHaveLength(1);
      expect(events[0]).toMatchObject({ subject: 2001, ...expected });
    });
  }

  test("the reason names nothing that the caller sent", async () => {
    const { ask, events } = aHandler();
    await ask(ALICE, "GET", `${LIST}Marker-4711`);
    expect(JSON.stringify(events)).not.toContain("4711");
  });

  test("what is answered has none", async () => {
    const { ask, events } = aHandler();
    expect((await ask(ALICE, "GET", LIST)).status).toBe(200);
    expect(events[0]).toMatchObject({ status: 200, refusal: null });
  });
});

describe("a request has one policy, whatever is loaded meanwhile:", () => {
  test("a session is named by the policy under which its caller was identified", async () => {
    const pending = Promise.withResolvers<Identity>();
    // The old one names no instance, so nobody asks for its id; the new one does.
    const before = policyOf({ role: ROLE, sessionName: "{user}" }, () => pending.promise);
    const after = policyOf({ role: ROLE, sessionName: "{user}@{instanceId}" });
    let policy: Policy = before;
    const { ask, sts } = aHandler({ policy: () => policy });
    const answer = ask(ALICE, "GET", CREDENTIALS);
    policy = after;
    pending.resolve(identityOf({ uid: 2001 } as SocketOwner));
    expect((await answer).status).toBe(200);
    expect(sts.requests.map(({ sessionName }) => sessionName)).toEqual(["user2001"]);
    expect((await ask(ALICE, "GET", CREDENTIALS)).status).toBe(200);
    expect(sts.requests.map(({ sessionName }) => sessionName)).toEqual(["user2001", "user2001@i-0123"]);
  });
});

test("a 503 says when to ask again", async () => {
  const { ask } = aHandler({
    policy: () => policyOf({ role: ROLE }, () => Promise.reject(new Error("away"))),
  });
  expect(await ask(ALICE, "GET", LIST)).toMatchObject({ status: 503, retryAfterSeconds: 1 });
});

describe("where NSS cannot tell for now", () => {
  const config = { role: ROLE, rules: [{ name: "blocked", match: { group: "blocked" }, role: "none" }] };

  test("whose subordinate uid it is: 503, with the reason", async () => {
    const why = "NSS cannot tell for now whose subordinate uid 165000 is: sss (unavailable)";
    const { ask, events } = aHandler({
      policy: () => policyOf(config, () => Promise.reject(new NamesUnavailable(why))),
    });
    expect((await ask(ALICE, "GET", LIST)).status).toBe(503);
    expect(events[0]).toMatchObject({ refusal: "unavailable", why });
  });

  test("the groups that a rule asks for: 503 on each way to a role, and whoami says why", async () => {
    const who = (owner: SocketOwner): Identity => ({
      ...identityOf(owner),
      groupsUnavailable: "sss (unavailable)",
    });
    const { ask, events, sts } = aHandler({ policy: () => policyOf(config, who) });
    const why = 'rule "blocked" asks for groups, not all of which can be told for now: sss (unavailable)';
    for (const target of [LIST, CREDENTIALS]) {
      expect(await ask(ALICE, "GET", target)).toMatchObject({ status: 503, retryAfterSeconds: 1 });
      expect(events.at(-1)).toMatchObject({ refusal: "unavailable", why });
    }
    const said = await ask(ALICE, "GET", "/imdsproxy/whoami");
    expect(JSON.parse(said.body)).toMatchObject({ role: null, reason: why });
    expect(sts.requests).toEqual([]);
  });
});

test("an error that nobody foresaw is told by its class and our frames, and none of its words", async () => {
  const secret = "word-of-a-secret";
  const { ask, events } = aHandler({
    policy: () =>
      policyOf({ role: ROLE }, function identifyInTest() {
        throw new TypeError(secret);
      }),
  });
  expect((await ask(ALICE, "GET", LIST)).status).toBe(503);
  const why = String(events[0]?.why);
  expect(why).toStartWith("internal: TypeError at identifyInTest (");
  expect(why).not.toContain(secret);
});

describe("the region in a session's name", () => {
  const named = policyOf({ role: ROLE, sessionName: "{user}.{region}" });
  test("is what the node's service says at each request", async () => {
    const region = { now: "us-west-2" };
    const { ask, sts } = aHandler({ policy: () => named, region: async () => region.now });
    for (const one of ["us-west-2", "us-west-2", "eu-north-1"]) {
      region.now = one;
      expect((await ask(ALICE, "GET", CREDENTIALS)).status).toBe(200);
    }
    expect(sts.requests.map(({ sessionName }) => sessionName)).toEqual([
      "user2001.us-west-2",
      "user2001.eu-north-1",
    ]);
  });
  test("is 503 while the service does not answer, and 404 where it names none", async () => {
    const away = aHandler({ policy: () => named, region: () => Promise.reject(new Error("away")) });
    expect((await away.ask(ALICE, "GET", CREDENTIALS)).status).toBe(503);
    expect(away.events[0]).toMatchObject({
      refusal: "unavailable",
      why: expect.stringContaining("the region is not known"),
    });
    const none = aHandler({ policy: () => named, region: async () => null });
    expect((await none.ask(ALICE, "GET", CREDENTIALS)).status).toBe(404);
    expect(none.events[0]).toMatchObject({ refusal: "rule", why: expect.stringContaining("{region}") });
    expect([...away.sts.requests, ...none.sts.requests]).toEqual([]);
  });
  test("is not asked for where no text names it", async () => {
    const { ask } = aHandler({ region: () => Promise.reject(new Error("asked")) });
    expect((await ask(ALICE, "GET", CREDENTIALS)).status).toBe(200);
  });
});

describe("a request without a token", () => {
  for (const [required, status] of [
    [true, 401],
    [false, 200],
    [null, 503],
  ] as const) {
    test(`is ${status} where tokens are ${required === null ? "not known to be required or not" : required ? "required" : "optional"}`, async () => {
      const { ask, events } = aHandler({ tokensRequired: () => required });
      const answer = await ask(ALICE, "GET", "/latest/meta-data/instance-id");
      expect([answer.status, answer.retryAfterSeconds]).toEqual([status, status === 503 ? 1 : undefined]);
      if (status === 503) expect(events.at(-1)).toMatchObject({ refusal: "unavailable" });
    });
  }

  test("with one, it is answered whatever is known", async () => {
    const { ask, putToken } = aHandler({ tokensRequired: () => null });
    const token = (await putToken(ALICE)).body;
    const headers = { "x-aws-ec2-metadata-token": token };
    expect((await ask(ALICE, "GET", "/latest/meta-data/instance-id", headers)).status).toBe(200);
  });
});

test("a request for credentials that are at hand looks once at the wall clock and once at the one that counts sleep", async () => {
  const made = aHandler();
  const { body } = await made.putToken(callerOf(2001));
  const { handler, clock } = made;
  const same = request("GET", CREDENTIALS, { host: "169.254.169.254", "x-aws-ec2-metadata-token": body });
  // The first one makes what later ones find.
  for (let asked = 0; asked < 2; asked++)
    expect((await handler.handle(same, callerOf(2001))).status).toBe(200);
  const [now, boot] = [spyOn(clock, "now"), spyOn(clock, "bootMs")];
  expect(handler.handle(same, callerOf(2001))).toMatchObject({ status: 200 });
  expect([now.mock.calls.length, boot.mock.calls.length]).toEqual([1, 1]);
});
