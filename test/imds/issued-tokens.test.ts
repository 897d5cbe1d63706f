import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { isRepeated } from "../../src/http/answer.ts";
import type { Subject } from "../../src/identity/caller.ts";
import { IssuedTokens } from "../../src/imds/issued-tokens.ts";
import { TokenMint } from "../../src/imds/tokens.ts";
import { holds } from "../support/fuzz.ts";

const NOW = Date.UTC(2030, 0, 1);
const [ALICE, BOB] = [2001, 2002];
const mint = new TokenMint(new Uint8Array(32).fill(7));

/** Tokens, and for whom the mint was asked. */
function counting() {
  const made: Subject[] = [];
  const issued = new IssuedTokens({
    issue(subject, ttlSeconds, nowMs) {
      made.push(subject);
      return mint.issue(subject, ttlSeconds, nowMs);
    },
  });
  return { made, issued };
}

describe("a new token", () => {
  test("is made once a second for a subject that asks again and again", () => {
    const { made, issued } = counting();
    const first = issued.answer(ALICE, 60, NOW);
    for (const later of [0, 1, 999]) expect(issued.answer(ALICE, 60, NOW + later)).toBe(first);
    expect(made).toEqual([ALICE]);
    expect(issued.answer(ALICE, 60, NOW + 1_000).body).not.toBe(first.body);
    expect(made).toEqual([ALICE, ALICE]);
  });

  test("has its answer's bytes kept only where it is asked for again", () => {
    const { issued } = counting();
    const first = issued.answer(ALICE, 60, NOW);
    expect(isRepeated(first)).toBe(false);
    issued.answer(ALICE, 60, NOW);
    expect(isRepeated(first)).toBe(true);
  });

  test("is another subject's own, and another for another life", () => {
    const { issued } = counting();
    const answers = [
      issued.answer(ALICE, 60, NOW),
      issued.answer(BOB, 60, NOW),
      issued.answer("2001", 60, NOW),
      issued.answer(ALICE, 61, NOW),
      issued.answer(ALICE, 60, NOW - 1_000),
    ];
    expect(new Set(answers.map(({ body }) => body)).size).toBe(answers.length);
  });

  test("is what the mint makes, whoever asked before and however the clock goes", () => {
    const asking = fc.record({
      subject: fc.constantFrom<Subject>(ALICE, BOB, 0, "2001", "172.17.0.2"),
      ttl: fc.constantFrom(1, 60, 21_600),
      stepMs: fc.integer({ min: -1_500, max: 1_500 }),
    });
    holds(
      fc.property(fc.array(asking, { maxLength: 40 }), (all) => {
        const issued = new IssuedTokens(mint);
        let nowMs = NOW;
        for (const { subject, ttl, stepMs } of all) {
          nowMs += stepMs;
          const { body, headers } = issued.answer(subject, ttl, nowMs);
          expect(body).toBe(mint.issue(subject, ttl, nowMs));
          expect(headers).toEqual({ "X-Aws-Ec2-Metadata-Token-Ttl-Seconds": String(ttl) });
        }
      }),
      2_000,
    );
  });

  test("is kept for a limited number of subjects", () => {
    const { made, issued } = counting();
    for (let uid = 0; uid < 1_000; uid++) issued.answer(uid, 60, NOW);
    made.length = 0;
    for (let uid = 0; uid < 1_000; uid++) issued.answer(uid, 60, NOW);
    expect(made.length).toBeGreaterThan(700);
  });
});
