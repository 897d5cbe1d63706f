import { describe, expect, test } from "bun:test";
import { type CallerKey, Callers } from "../../src/observe/callers.ts";
import { CREDENTIALS_CATEGORY, type SeenRequest } from "../../src/observe/request.ts";
import { caller } from "./support.ts";

const key = (more: Partial<CallerKey> = {}): CallerKey => ({
  uid: 2001,
  container: null,
  place: { kind: "login" },
  program: "/bin/a",
  ...more,
});
const request = (more: Partial<SeenRequest> = {}): SeenRequest => ({
  category: "user-data",
  imdsVersion: 1,
  userAgent: "curl",
  ...more,
});
const ofUid = (uid: number) => uid;

describe("Callers", () => {
  test("keep users, places and programs apart, and count the same one together", () => {
    const callers = new Callers(ofUid);
    const first = callers.of(key());
    expect(callers.of(key())).toBe(first);
    for (const more of [
      { uid: 2002 },
      { place: { kind: "unit", name: "x.service" } as const },
      { program: "/bin/b" },
    ])
      expect(callers.of(key(more))).not.toBe(first);
  });
  test("count versions, categories and User-Agents, the most frequent first", () => {
    const callers = new Callers(ofUid);
    const one = callers.of(key());
    one.request(request());
    one.request(request({ category: "api/token", imdsVersion: 2 }));
    one.request(request({ category: "api/token", imdsVersion: null, userAgent: null }));
    one.touch(5);
    one.touch(3);
    expect(callers.snapshot()[0]).toMatchObject({
      requests: 3,
      v1: 1,
      v2: 1,
      categories: [
        ["api/token", 2],
        ["user-data", 1],
      ],
      userAgents: [["curl", 2]],
      firstMs: 3,
      lastMs: 5,
    });
  });
  test("who asks for credentials after 1,000 other categories has asked for them all the same", () => {
    const seen = new Callers(ofUid).of(key());
    for (let i = 0; i < 1_000; i++) seen.request(request({ category: `c${i}` }));
    seen.request(request({ category: CREDENTIALS_CATEGORY }));
    const sum = new Callers(ofUid).of(key());
    for (let i = 0; i < 32; i++) sum.request(request({ category: `d${i}` }));
    sum.add(seen.snapshot());
    for (const one of [seen, sum]) {
      const { categories } = one.snapshot();
      expect(categories.length).toBe(33);
      expect(categories).toContainEqual([CREDENTIALS_CATEGORY, 1]);
      expect(categories.reduce((all, [, times]) => all + times, 0)).toBe(one.requests);
    }
  });
  test("keep eight User-Agents and 32 categories, names of Object's included, and count the rest", () => {
    const callers = new Callers(ofUid);
    const one = callers.of(key());
    one.request(request({ category: "__proto__", userAgent: "constructor" }));
    for (let i = 0; i < 1_000; i++) one.request(request({ category: `c${i}`, userAgent: `a${i}` }));
    const { categories, userAgents, requests } = one.snapshot();
    expect([categories.length, userAgents.length, requests]).toEqual([33, 9, 1_001]);
    expect(categories[0]).toEqual(["(others)", 969]);
    expect(categories).toContainEqual(["__proto__", 1]);
    expect(userAgents).toContainEqual(["constructor", 1]);
  });
  test("one user's programs do not fill the list: 64 are kept, the rest is one", () => {
    const callers = new Callers(ofUid);
    for (let i = 0; i < 10_000; i++) callers.of(key({ program: `/tmp/${i}` })).connections++;
    callers.of(key({ uid: 2002 })).connections++;
    const seen = callers.snapshot();
    expect(seen.length).toBe(66);
    expect(seen.find(({ program }) => program === "(others)")).toMatchObject({
      uid: 2001,
      connections: 10_000 - 64,
    });
    expect(seen.some(({ uid }) => uid === 2002)).toBe(true);
  });
  test("nor do a user's subordinate uids, nor addresses of containers", () => {
    const callers = new Callers((uid) => (uid >= 100_000 ? "subordinate to alice" : uid));
    for (let i = 0; i < 65_536; i++) callers.of(key({ uid: 100_000 + i })).connections++;
    for (let i = 0; i < 65_536; i++)
      callers.of(key({ uid: null, container: `10.0.${i >> 8}.${i & 255}` })).connections++;
    expect(callers.snapshot().length).toBeLessThan(140);
    callers.of(key()).connections++;
    expect(callers.snapshot().some(({ uid }) => uid === 2001)).toBe(true);
  });
  test("the list is bounded for everybody together", () => {
    const callers = new Callers(ofUid);
    for (let i = 0; i < 20_000; i++) callers.of(key({ uid: 10_000 + i })).connections++;
    expect(callers.snapshot().length).toBeLessThan(4_100);
    expect(callers.snapshot().reduce((sum, { connections }) => sum + connections, 0)).toBe(20_000);
    expect(callers.folded).toBe(20_000 - 4_096);
  });
  test("add what an earlier run has seen to the same caller", () => {
    const callers = new Callers(ofUid);
    callers.add([caller({ program: "/bin/a", jobs: ["1", "2"], requests: 4, v2: 4 })]);
    const one = callers.of(key());
    one.request(request());
    one.job("2");
    one.job("3");
    expect(callers.snapshot()).toMatchObject([{ requests: 5, v1: 1, v2: 4, jobs: ["1", "2", "3"] }]);
  });
  test("drop one of which nothing remains, and keep any other", () => {
    const callers = new Callers(ofUid);
    const [empty, used] = [callers.of(key()), callers.of(key({ uid: 2002 }))];
    used.connections = 1;
    callers.drop(empty);
    callers.drop(used);
    expect(callers.snapshot().map(({ uid }) => uid)).toEqual([2002]);
  });
});
