import { describe, expect, test } from "bun:test";
import { CallAllowance } from "../../src/sessions/allowance.ts";
import { StsFailure } from "../../src/sessions/failure.ts";
import type { SessionOutcome } from "../../src/sessions/types.ts";
import { aBroker, aRequest, SECOND } from "./support.ts";

/** A session that several users share, as where its name is their group's: one of them does not hold it up for the others. */

const ALICE = 2_001;
const BOB = 2_002;
const shared = () => aRequest({ sessionName: "data-eng" });
const ofAlice = (i: number) => aRequest({ sessionName: `alice-${i}` });
const throttled = () =>
  new StsFailure({
    kind: "transient",
    code: "Throttling",
    message: "STS is asked too often",
    retryAfterMs: null,
  });

/**
 * STS takes one call of this node in ten seconds, as in an account whose quota others use up, and alice asks for a hundred sessions of her
 * own.
 *
 * @returns after how many seconds bob has the session that both share, and how many calls of STS there were until then.
 */
async function whilePaced(asksFirst: boolean): Promise<{ seconds: number; calls: number }> {
  let seed = 7;
  const random = () => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    return seed / 2_147_483_648;
  };
  const { broker, sts, clock } = aBroker({ random });
  let tookMs = Number.NEGATIVE_INFINITY;
  let calls = 0;
  const assumeRole = sts.assumeRole.bind(sts);
  sts.assumeRole = (request, signal) => {
    calls++;
    if (clock.now() - tookMs < 10 * SECOND) return Promise.reject(throttled());
    tookMs = clock.now();
    return assumeRole(request, signal);
  };
  for (let i = 0; i < 8; i++) void broker.get(aRequest({ sessionName: `other-${i}` }), "other");
  await clock.advance(60 * SECOND);
  calls = 0;
  for (let i = 0; i < 100; i++) void broker.get(ofAlice(i), ALICE);
  if (asksFirst) void broker.get(shared(), ALICE);
  for (let second = 0; second < 3_000; second++) {
    if (second % 20 === 0) for (let i = 0; i < 100; i++) void broker.get(ofAlice(i), ALICE);
    let got: SessionOutcome | null = null;
    void broker.get(shared(), BOB).then((outcome) => {
      got = outcome;
    });
    await clock.advance(SECOND);
    if ((got as SessionOutcome | null)?.kind === "session") return { seconds: second, calls };
  }
  return { seconds: Number.POSITIVE_INFINITY, calls };
}

describe("a session that two share", () => {
  test("does not wait behind the queue of the one who asked first, and takes no other's turn", async () => {
    const alone = await whilePaced(false);
    expect(await whilePaced(true)).toEqual(alone);
    expect(alone.seconds).toBeLessThan(300);
  });

  test("is not refused to one because the other's rate limit is used up; neither pays for it twice", async () => {
    const rates = { user: { perSecond: 0.2, burst: 5 }, node: { perSecond: 20, burst: 500 } };
    const { broker, clock, sts } = aBroker({ allowance: new CallAllowance(rates) });
    for (let i = 0; i < 6; i++) void broker.get(ofAlice(i), ALICE);
    void broker.get(shared(), ALICE);
    await clock.advance(0);
    const got: SessionOutcome[] = [];
    for (let i = 0; i < 20; i++) void broker.get(shared(), BOB).then((outcome) => got.push(outcome));
    await clock.advance(SECOND);
    expect(got.map(({ kind }) => kind)).toEqual(Array(20).fill("session"));
    expect(sts.requests.filter(({ sessionName }) => sessionName === "data-eng")).toHaveLength(1);
    // Of his five, the shared one took one.
    let own = 0;
    for (let i = 0; i < 10; i++)
      void broker.get(aRequest({ sessionName: `bob-${i}` }), BOB).then(({ kind }) => {
        if (kind === "session") own++;
      });
    await clock.advance(10);
    expect(own).toBe(4);
  });

  test("is one call, whoever's turn comes first, and the one who loses keeps their place for the next", async () => {
    const { broker, sts, clock } = aBroker({ maxConcurrent: 2 });
    sts.manual = true;
    void broker.get(ofAlice(0), ALICE);
    void broker.get(ofAlice(1), ALICE);
    void broker.get(shared(), ALICE);
    await clock.advance(0);
    void broker.get(shared(), BOB);
    void broker.get(aRequest({ sessionName: "bob" }), BOB);
    await clock.advance(0);
    // Each may have half of the calls in flight: hers is one, and the shared one comes by his turn.
    expect(sts.open.map(({ request }) => request.sessionName)).toEqual(["alice-0", "data-eng"]);
    const answer = (name: string) => sts.open.find(({ request }) => request.sessionName === name)?.answer();
    answer("alice-0");
    await clock.advance(0);
    expect(sts.requests.map(({ sessionName }) => sessionName)).toEqual(["alice-0", "data-eng", "alice-1"]);
    answer("data-eng");
    await clock.advance(0);
    expect(sts.requests.map(({ sessionName }) => sessionName)).toEqual([
      "alice-0",
      "data-eng",
      "alice-1",
      "bob",
    ]);
    expect(sts.requests.filter(({ sessionName }) => sessionName === "data-eng")).toHaveLength(1);
  });
});
