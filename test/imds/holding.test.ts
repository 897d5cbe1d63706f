import { describe, expect, test } from "bun:test";
import type { Answer } from "../../src/http/answer.ts";
import type { Identity } from "../../src/identity/types.ts";
import { CallAllowance } from "../../src/sessions/allowance.ts";
import { denied, MINUTE, passing, SECOND } from "../sessions/support.ts";
import { aHandler, CREDENTIALS, callerOf, identityOf, LIST, policyOf, ROLE } from "./support.ts";

const ALICE = callerOf(2001);
const BOB = callerOf(2002);

/** Whether a promise has come by the time this is asked. */
function watched<T>(promise: Promise<T>): { value: T | null } {
  const seen: { value: T | null } = { value: null };
  void promise.then((value) => {
    seen.value = value;
  });
  return seen;
}

/** A handler whose STS takes so long for each AssumeRole. */
function slowSts(takesMs: number, options: Parameters<typeof aHandler>[0] = {}) {
  const made = aHandler(options);
  const { sts, clock } = made;
  sts.manual = true;
  const assumeRole = sts.assumeRole.bind(sts);
  sts.assumeRole = (request, signal) => {
    const answer = assumeRole(request, signal);
    const call = sts.open.at(-1);
    clock.schedule(takesMs, () => call?.answer());
    return answer;
  };
  return made;
}

/** One client that asks for what it needs one after the other, waits so long for each answer, and gives up then. */
async function client(
  made: ReturnType<typeof slowSts>,
  { v2, waitsMs }: { v2: boolean; waitsMs: number },
): Promise<{ got: string; heldMs: number[] }> {
  const { ask, putToken, clock } = made;
  const heldMs: number[] = [];
  const steps: (() => Promise<Answer>)[] = [
    () => ask(ALICE, "GET", LIST),
    () => ask(ALICE, "GET", CREDENTIALS),
  ];
  if (v2) steps.unshift(() => putToken(ALICE));
  let body = "";
  for (const step of steps) {
    const seen = watched(step());
    let waitedMs = 0;
    await clock.advance(0);
    while (seen.value === null && waitedMs < waitsMs) {
      await clock.advance(10);
      waitedMs += 10;
    }
    heldMs.push(waitedMs);
    if (seen.value === null) return { got: "time-out", heldMs };
    body = seen.value.body;
  }
  return { got: JSON.parse(body).Code, heldMs };
}

describe("the first credentials come at the first try, in clients that wait a second for each answer:", () => {
  for (const v2 of [false, true]) {
    for (const takesMs of [0, 10, 100, 700, 1_000, 1_300, 1_400, 1_440]) {
      test(`IMDSv${v2 ? 2 : 1}, STS takes ${takesMs} ms`, async () => {
        const { got, heldMs } = await client(slowSts(takesMs), { v2, waitsMs: 1_000 });
        expect(got).toBe("Success");
        // Go waits 500 ms for the head of any answer, and a token that comes late is a token that is never asked for again.
        expect(heldMs.at(-2)).toBeLessThanOrEqual(450);
        if (v2) expect(heldMs[0]).toBeLessThanOrEqual(200);
      });
    }
  }

  test("with a token there are 200 ms more", async () => {
    expect((await client(slowSts(1_640), { v2: true, waitsMs: 1_000 })).got).toBe("Success");
    expect((await client(slowSts(1_640), { v2: false, waitsMs: 1_000 })).got).toBe("time-out");
  });
});

describe("a list is answered at once", () => {
  test("with a session at hand, also while it is refreshed", async () => {
    const made = aHandler();
    await made.ask(ALICE, "GET", CREDENTIALS);
    made.sts.manual = true;
    await made.clock.advance(30 * MINUTE + SECOND);
    expect(made.broker.counts().inFlight).toBe(1);
    const seen = watched(made.ask(ALICE, "GET", LIST));
    await made.clock.advance(0);
    expect(seen.value?.status).toBe(200);
  });

  for (const [name, failing] of [
    ["denied", denied],
    ["failing", passing],
  ] as const) {
    test(`when STS has said no: ${name}`, async () => {
      const made = aHandler();
      made.sts.failing = failing;
      await made.ask(ALICE, "GET", CREDENTIALS);
      made.sts.failing = null;
      made.sts.manual = true;
      await made.clock.advance(10);
      const seen = watched(made.ask(ALICE, "GET", LIST));
      await made.clock.advance(0);
      expect(seen.value?.body).toBe("ImdsProxyTestRole");
    });
  }

  test("to who is refused", async () => {
    const policy = policyOf({ role: ROLE, rules: [{ name: "x", match: { uid: [2001] }, role: "none" }] });
    const made = slowSts(10 * SECOND, { policy: () => policy });
    const token = watched(made.putToken(ALICE));
    const list = watched(made.ask(ALICE, "GET", LIST));
    await made.clock.advance(0);
    expect([token.value?.status, list.value?.status]).toEqual([200, 404]);
    expect(made.sts.calls).toBe(0);
  });

  test("when the attempt is two seconds old: an STS that hangs holds up nothing after that", async () => {
    const made = slowSts(9 * SECOND);
    void made.ask(ALICE, "GET", LIST);
    await made.clock.advance(1_999);
    const held = watched(made.ask(ALICE, "GET", LIST));
    await made.clock.advance(1);
    const late = watched(made.ask(ALICE, "GET", LIST));
    await made.clock.advance(0);
    expect([held.value, late.value?.body]).toEqual([null, "ImdsProxyTestRole"]);
  });

  test("when 512 of the user's are held, and other users' are held all the same", async () => {
    const made = slowSts(SECOND);
    const seen = Array.from({ length: 600 }, () => watched(made.ask(ALICE, "GET", LIST)));
    const bob = watched(made.ask(BOB, "GET", LIST));
    await made.clock.advance(0);
    expect(seen.filter(({ value }) => value === null)).toHaveLength(512);
    expect(bob.value).toBeNull();
    await made.clock.advance(450);
    expect(seen.every(({ value }) => value?.body === "ImdsProxyTestRole")).toBe(true);
    // And the places are free again.
    const again = watched(made.ask(ALICE, "GET", LIST));
    await made.clock.advance(0);
    expect(again.value).toBeNull();
  });

  test("450 ms after it was asked for, less what a lag takes of Go's 500", async () => {
    for (const [lagMs, heldMs] of [
      [0, 450],
      [40, 450],
      [90, 400],
      [490, 0],
      [2_000, 0],
    ] as const) {
      const made = slowSts(SECOND, { lagMs: () => lagMs });
      const seen = watched(made.ask(ALICE, "GET", LIST));
      await made.clock.advance(Math.max(0, heldMs - 1));
      expect([lagMs, seen.value !== null]).toEqual([lagMs, heldMs === 0]);
      await made.clock.advance(1);
      expect([lagMs, seen.value !== null]).toEqual([lagMs, true]);
    }
  });
});

describe("a token is answered", () => {
  test("at once while the lag is over 50 ms, and its session is begun all the same", async () => {
    let lagMs = 51;
    const made = slowSts(SECOND, { lagMs: () => lagMs });
    const late = watched(made.putToken(ALICE));
    await made.clock.advance(0);
    expect([late.value?.status, made.sts.calls]).toEqual([200, 1]);
    lagMs = 50;
    const held = watched(made.putToken(BOB));
    await made.clock.advance(199);
    expect(held.value).toBeNull();
    await made.clock.advance(1);
    expect(held.value?.status).toBe(200);
  });

  test("within 200 ms where the directory does not say who asks", async () => {
    const policy = policyOf({ role: ROLE }, () => new Promise<Identity>(() => {}));
    const made = aHandler({ policy: () => policy });
    const seen = watched(made.putToken(ALICE));
    await made.clock.advance(200);
    expect(seen.value).toMatchObject({
      status: 200,
      headers: { "X-Aws-Ec2-Metadata-Token-Ttl-Seconds": "60" },
    });
  });

  test("where the directory fails, and where the rules cannot tell", async () => {
    for (const identify of [
      () => Promise.reject(new Error("away")),
      () => {
        throw new Error("away");
      },
    ]) {
      const policy = policyOf({ role: ROLE }, identify);
      const made = aHandler({ policy: () => policy });
      expect((await made.putToken(ALICE)).status).toBe(200);
    }
  });

  test("with one look at the caller in a second, and under a new policy with a new one", async () => {
    let looks = 0;
    const make = (sessionName: string) =>
      policyOf({ role: ROLE, sessionName }, (owner) => {
        looks++;
        return identityOf(owner);
      });
    let policy = make("{user}");
    const made = aHandler({ policy: () => policy });
    for (let asks = 0; asks < 1_000; asks++) await made.putToken(ALICE);
    expect([looks, made.sts.calls]).toEqual([1, 1]);
    await made.clock.advance(SECOND);
    await made.putToken(ALICE);
    expect([looks, made.sts.calls]).toEqual([2, 1]);
    policy = make("new-{user}");
    await made.putToken(ALICE);
    await made.clock.advance(0);
    expect([looks, made.sts.calls]).toEqual([3, 2]);
  });

  test("for each job with a session of its own begun", async () => {
    const policy = policyOf(
      { role: ROLE, sessionName: "{user}-{slurmJobId}" },
      (owner): Identity => ({ ...identityOf(owner), slurmJobId: String(owner.cgroupId) }),
    );
    const made = aHandler({ policy: () => policy });
    for (const job of [11n, 12n, 11n]) await made.putToken(callerOf(2001, job));
    expect(made.sts.requests.map(({ sessionName }) => sessionName)).toEqual(["user2001-11", "user2001-12"]);
  });

  test("to a container, too", async () => {
    const made = aHandler();
    const container = { kind: "container", address: "10.88.0.2" } as const;
    expect((await made.putToken(container)).status).toBe(200);
    expect(made.sts.requests.map(({ sessionName }) => sessionName)).toEqual(["container=10.88.0.2@i-0123"]);
  });
});

describe("a caller who is expected after a restart", () => {
  test("has the session begun, and a caller whom the rules refuse by now has not", async () => {
    const refusing = policyOf({ role: ROLE, rules: [{ name: "x", match: { uid: [2002] }, role: "none" }] });
    const made = aHandler({ policy: () => refusing });
    made.handler.expect(ALICE, 0.5);
    made.handler.expect(BOB, 0.5);
    await made.clock.advance(0);
    expect(made.sts.requests.map(({ sessionName }) => sessionName)).toEqual(["user2001@i-0123"]);
  });

  test("waits for nothing and says nothing where the directory is away", async () => {
    const policy = policyOf({ role: ROLE }, () => Promise.reject(new Error("away")));
    const made = aHandler({ policy: () => policy });
    made.handler.expect(ALICE, 0.5);
    await made.clock.advance(0);
    expect([made.sts.calls, made.events]).toEqual([0, []]);
  });

  test("leaves half of the node's calls to those who ask", async () => {
    const allowance = new CallAllowance({
      user: { perSecond: 0.01, burst: 10 },
      node: { perSecond: 0.01, burst: 9 },
    });
    const made = aHandler({ session: { allowance } });
    for (let uid = 1; uid <= 20; uid++) made.handler.expect(callerOf(uid), 0.5);
    await made.clock.advance(0);
    expect(made.sts.calls).toBe(5);
    expect((await made.ask(callerOf(21), "GET", CREDENTIALS)).status).toBe(200);
  });
});

test("who asks for credentials is told of, with the cgroup where a rule needs it; who is refused is not", async () => {
  const asked: unknown[] = [];
  const onAsked = (owner: object, user: unknown) => void asked.push([owner, user]);
  const plain = aHandler({ onAsked });
  await plain.ask(callerOf(2001, 7n), "GET", CREDENTIALS);
  await plain.ask(callerOf(2001, 7n), "GET", LIST);
  await plain.ask(callerOf(2001, 7n), "GET", `${LIST}Other`);
  const job = policyOf({ role: ROLE, sessionName: "{user}-{slurmJobId}" });
  await aHandler({ onAsked, policy: () => job }).ask(callerOf(2001, 7n), "GET", CREDENTIALS);
  expect(asked).toEqual([
    [{ uid: 2001, cgroupId: null }, 2001],
    [{ uid: 2001, cgroupId: 7n }, 2001],
  ]);
});
