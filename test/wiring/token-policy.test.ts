import { describe, expect, test } from "bun:test";
import { TokenPolicy } from "../../src/wiring/token-policy.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

/** A policy whose upstream answers when it is told to. */
function aPolicy(setting: "auto" | "optional" | "required" = "auto") {
  const clock = new FakeClock();
  const questions: ((answer: boolean | null) => void)[] = [];
  let asked = 0;
  const policy = new TokenPolicy({
    setting,
    clock,
    upstream: {
      tokensRequired: () =>
        new Promise((resolve) => {
          asked++;
          questions.push(resolve);
        }),
    },
  });
  const say = async (answer: boolean | null) => {
    questions.shift()?.(answer);
    await settle();
  };
  return { clock, policy, say, asked: () => asked, underWay: () => questions.length };
}

test("what the configuration says holds from the start, and nobody is asked", async () => {
  for (const [setting, required] of [
    ["optional", false],
    ["required", true],
  ] as const) {
    const { policy, asked } = aPolicy(setting);
    expect(policy.required).toBe(required);
    await policy.start();
    expect([policy.required, asked()]).toEqual([required, 0]);
  }
});

describe("auto", () => {
  test("is not known before the upstream has said it: neither required nor optional", async () => {
    for (const answer of [true, false]) {
      const { policy, say } = aPolicy();
      expect(policy.required).toBeNull();
      const started = policy.start();
      expect(policy.required).toBeNull();
      await say(answer);
      await started;
      expect(policy.required).toBe(answer);
    }
  });

  test("start() waits for the first answer, and no longer where none comes", async () => {
    const { policy, say } = aPolicy();
    let isOver = false;
    const started = policy.start().then(() => {
      isOver = true;
    });
    await settle();
    expect(isOver).toBe(false);
    await say(null);
    await started;
    expect(policy.required).toBeNull();
  });

  test("an upstream that is away is asked twice a second, so that its return is noticed within one", async () => {
    const { policy, say, clock, asked } = aPolicy();
    void policy.start();
    for (let second = 0; second < 3; second++) {
      for (let half = 0; half < 2; half++) {
        await say(null);
        await clock.advance(500);
      }
    }
    expect(asked()).toBe(7);
    await say(false);
    expect(policy.required).toBe(false);
    await clock.advance(599_000);
    expect(asked()).toBe(7);
    await clock.advance(1_000);
    expect(asked()).toBe(8);
  });

  test("what it said last holds while it is away, and over a move", async () => {
    const { policy, say, clock } = aPolicy();
    void policy.start();
    await say(false);
    await clock.advance(600_000);
    await say(null);
    expect(policy.required).toBe(false);
    void policy.start();
    expect(policy.required).toBe(false);
    await say(null);
    expect(policy.required).toBe(false);
    await clock.advance(5_000);
    await say(true);
    expect(policy.required).toBe(true);
  });

  test("started twice, it asks with one timer, and a late answer of the old upstream is void", async () => {
    const { policy, say, clock, asked, underWay } = aPolicy();
    void policy.start();
    void policy.start();
    expect(underWay()).toBe(2);
    // The old one's answer comes first, or last: it counts for nothing.
    await say(true);
    expect(policy.required).toBeNull();
    await say(false);
    expect(policy.required).toBe(false);
    expect(clock.pending).toBe(1);
    void policy.start();
    expect(clock.pending).toBe(0);
    void policy.start();
    const late = asked();
    await say(true);
    await say(false);
    expect([policy.required, clock.pending, asked()]).toEqual([false, 1, late]);
  });

  test("stopped, it asks nobody any more", async () => {
    const { policy, say, clock, asked } = aPolicy();
    void policy.start();
    policy.stop();
    await say(null);
    await clock.advance(1_000_000);
    expect([asked(), clock.pending]).toEqual([1, 0]);
  });
});
