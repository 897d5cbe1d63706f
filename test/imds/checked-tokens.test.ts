import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Subject } from "../../src/identity/caller.ts";
import { CheckedTokens } from "../../src/imds/checked-tokens.ts";
import { TokenMint } from "../../src/imds/tokens.ts";
import { holds } from "../support/fuzz.ts";
import { aHandler, CREDENTIALS, callerOf, request } from "./support.ts";

const NOW = Date.UTC(2030, 0, 1);
const [ALICE, BOB] = [2001, 2002];
const mint = new TokenMint(new Uint8Array(32).fill(7));

/** A check that counts how often the mint is asked. */
function counting() {
  const asked: Subject[] = [];
  const checked = new CheckedTokens({
    check(text, subject, nowMs) {
      asked.push(subject);
      return mint.check(text, subject, nowMs);
    },
  });
  return { asked, checked };
}

describe("a request's token", () => {
  test("is computed once for its request and its subject", () => {
    const { asked, checked } = counting();
    const [one, other] = [{}, {}];
    const token = mint.issue(ALICE, 60, NOW);
    for (let run = 0; run < 5; run++) {
      expect(checked.check(one, token, ALICE, NOW + run * 1000)).toEqual({
        valid: true,
        remainingSeconds: 60 - run,
      });
    }
    expect(asked).toEqual([ALICE]);
    expect(checked.check(other, token, ALICE, NOW).valid).toBe(true);
    expect(asked).toEqual([ALICE, ALICE]);
  });

  test("ends when it ends, also where it was good before, and by a clock that was set back", () => {
    const { checked } = counting();
    const request = {};
    const token = mint.issue(ALICE, 60, NOW);
    expect(checked.check(request, token, ALICE, NOW + 59_999)).toEqual({ valid: true, remainingSeconds: 1 });
    expect(checked.check(request, token, ALICE, NOW + 60_000)).toEqual({ valid: false });
    expect(checked.check(request, token, ALICE, NOW)).toEqual({ valid: true, remainingSeconds: 60 });
    expect(checked.check(request, token, ALICE, 0)).toEqual({ valid: false });
  });

  test("is nothing in the hands of another subject, however often its owner presents the same request", () => {
    const { checked } = counting();
    const request = {};
    const token = mint.issue(ALICE, 60, NOW);
    for (let run = 0; run < 3; run++) {
      expect(checked.check(request, token, ALICE, NOW).valid).toBe(true);
      for (const other of [BOB, 0, "2001", "uid 2001", "172.17.0.2"])
        expect([other, checked.check(request, token, other, NOW)]).toEqual([other, { valid: false }]);
    }
  });

  test("that is not good is asked about each time", () => {
    const { asked, checked } = counting();
    const request = {};
    for (let run = 0; run < 3; run++) expect(checked.check(request, "x", ALICE, NOW).valid).toBe(false);
    expect(asked).toHaveLength(3);
  });

  test("has the mint's own outcome, for any subjects and times in any order", () => {
    const subjects = fc.constantFrom<Subject>(ALICE, BOB, 0, "172.17.0.2");
    const asking = fc.record({
      subject: subjects,
      request: fc.nat({ max: 2 }),
      laterMs: fc.integer({ min: -400_000, max: 200_000 }),
    });
    holds(
      fc.property(
        subjects,
        fc.integer({ min: 1, max: 120 }),
        fc.array(asking, { maxLength: 30 }),
        (owner, ttl, askings) => {
          const { checked } = counting();
          const token = mint.issue(owner, ttl, NOW);
          // Each request has a token of its own in its head, which it always has.
          const requests = [token, token, `${token.slice(0, -1)}A`].map((text) => ({ text }));
          for (const { subject, request: at, laterMs } of askings) {
            const one = requests[at] ?? { text: "" };
            const nowMs = NOW + laterMs;
            expect(checked.check(one, one.text, subject, nowMs)).toEqual(
              mint.check(one.text, subject, nowMs),
            );
          }
        },
      ),
      1_000,
    );
  });
});

test("the handler refuses another user the very request that its owner was answered, and its owner when it has ended", async () => {
  const { handler, clock, putToken } = aHandler();
  const { body } = await putToken(callerOf(ALICE));
  const same = request("GET", CREDENTIALS, { host: "169.254.169.254", "x-aws-ec2-metadata-token": body });
  const statusFor = async (uid: number) => (await handler.handle(same, callerOf(uid))).status;
  expect([await statusFor(ALICE), await statusFor(BOB), await statusFor(ALICE)]).toEqual([200, 401, 200]);
  await clock.advance(59_000);
  expect(await statusFor(ALICE)).toBe(200);
  await clock.advance(1_000);
  expect([await statusFor(ALICE), await statusFor(BOB)]).toEqual([401, 401]);
});
