import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { sessionKey } from "../../src/sessions/key.ts";
import type { SessionRequest } from "../../src/sessions/types.ts";
import { holds } from "../support/fuzz.ts";
import { aRequest } from "./support.ts";

/** Few characters, and those that separate, so that collisions would come. */
const text = fc.string({
  unit: fc.constantFrom("a", "b", '"', ",", "[", "]", "|", ":", "\\", "\u0000", "\ud800"),
  maxLength: 4,
});
const nullable = fc.option(text);
const requests: fc.Arbitrary<SessionRequest> = fc.record({
  roleArn: text,
  sessionName: text,
  durationSeconds: fc.constantFrom(900, 3600),
  sourceIdentity: nullable,
  tags: fc.uniqueArray(fc.tuple(text, text), { selector: ([key]) => key, maxLength: 3 }),
  transitiveTagKeys: fc.uniqueArray(text, { maxLength: 3 }),
  policyArns: fc.uniqueArray(text, { maxLength: 3 }),
  policy: nullable,
  externalId: nullable,
});

/** Equal as AWS sees it, written without regard to how the key is made. */
function same(a: SessionRequest, b: SessionRequest): boolean {
  const sameSet = (x: readonly string[], y: readonly string[]) =>
    x.length === y.length && x.every((value) => y.includes(value));
  return (
    a.roleArn === b.roleArn &&
    a.sessionName === b.sessionName &&
    a.durationSeconds === b.durationSeconds &&
    a.sourceIdentity === b.sourceIdentity &&
    a.policy === b.policy &&
    a.externalId === b.externalId &&
    a.tags.length === b.tags.length &&
    a.tags.every(([key, value]) => b.tags.some(([otherKey, other]) => key === otherKey && value === other)) &&
    sameSet(a.transitiveTagKeys, b.transitiveTagKeys) &&
    sameSet(a.policyArns, b.policyArns)
  );
}

describe("sessionKey()", () => {
  test("is the same exactly for equal requests", () => {
    holds(
      fc.property(requests, requests, (a, b) => {
        expect(sessionKey(a) === sessionKey(b)).toBe(same(a, b));
      }),
      2000,
    );
  });

  test("differs when any one field does", () => {
    holds(
      fc.property(requests, requests, (a, b) => {
        for (const field of Object.keys(a) as (keyof SessionRequest)[]) {
          const mixed = { ...a, [field]: b[field] };
          expect(sessionKey(mixed) === sessionKey(a)).toBe(same(mixed, a));
        }
      }),
      500,
    );
  });

  test("does not depend on the order of tags, transitive keys and policy ARNs", () => {
    holds(
      fc.property(requests, (request) => {
        const turned = {
          ...request,
          tags: request.tags.toReversed(),
          transitiveTagKeys: request.transitiveTagKeys.toReversed(),
          policyArns: request.policyArns.toReversed(),
        };
        expect(sessionKey(turned)).toBe(sessionKey(request));
      }),
      100,
    );
  });

  test("tells absent from empty, and where one field ends from where the next begins", () => {
    const pairs: [Partial<SessionRequest>, Partial<SessionRequest>][] = [
      [{ externalId: null }, { externalId: "" }],
      [
        { policy: "x", externalId: null },
        { policy: null, externalId: "x" },
      ],
      [
        { roleArn: "ab", sessionName: "c" },
        { roleArn: "a", sessionName: "bc" },
      ],
      [
        { roleArn: 'a","b', sessionName: "c" },
        { roleArn: "a", sessionName: 'b","c' },
      ],
      [{ tags: [["a", "b"]] }, { tags: [["b", "a"]] }],
      [
        { tags: [["a", "1"]], transitiveTagKeys: [] },
        { tags: [["a", "1"]], transitiveTagKeys: ["a"] },
      ],
      [{ policyArns: ["a", "b"] }, { policyArns: ["a,b"] }],
      [{ sessionName: "Alice" }, { sessionName: "alice" }],
    ];
    for (const [a, b] of pairs) expect(sessionKey(aRequest(a))).not.toBe(sessionKey(aRequest(b)));
  });
});
