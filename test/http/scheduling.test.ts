import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { LoopIterations, ReadBudget, type RequestSource, RoundRobin } from "../../src/http/scheduling.ts";
import { holds } from "../support/fuzz.ts";

/** An event loop whose iterations a test runs one by one. */
function aLoop() {
  const waiting: (() => void)[] = [];
  const clock = { ms: 0 };
  const queues = new RoundRobin(new LoopIterations((run) => waiting.push(run)), () => clock.ms);
  return {
    queues,
    clock,
    /** One turn of the event loop; false where nothing waited. */
    turn: (): boolean => {
      const run = waiting.shift();
      run?.();
      return run !== undefined;
    },
  };
}

/** Enqueues a connection with so many requests ready; each is written to the log and costs `costMs`. */
function enqueue(
  { queues, clock }: Pick<ReturnType<typeof aLoop>, "queues" | "clock">,
  user: number,
  options: { name: string; requests: number; log: string[]; costMs?: number },
): void {
  let left = options.requests;
  const source: RequestSource = {
    handleNext() {
      options.log.push(options.name);
      clock.ms += options.costMs ?? 0;
      if (--left > 0) queues.enqueue(user, source);
    },
  };
  queues.enqueue(user, source);
}

describe("RoundRobin", () => {
  test("holds back no user who is alone", () => {
    const log: string[] = [];
    const loop = aLoop();
    const { turn } = loop;
    enqueue(loop, 1, { name: "a", requests: 128, log });
    expect(log).toHaveLength(128);
    while (turn());
    expect(log).toHaveLength(128);
  });

  test("lets sockets be polled after 128 requests, however many sockets bring them", () => {
    const log: string[] = [];
    const loop = aLoop();
    const { turn } = loop;
    for (let socket = 0; socket < 1_000; socket++) enqueue(loop, 1, { name: "a", requests: 1, log });
    expect(log).toHaveLength(128);
    turn();
    expect(log).toHaveLength(256);
    while (turn());
    expect(log).toHaveLength(1_000);
    // And each turn of the loop has its own.
    for (let socket = 0; socket < 1_000; socket++) enqueue(loop, 1, { name: "a", requests: 1, log });
    expect(log).toHaveLength(1_128);
  });

  test("lets sockets be polled after 128 requests", () => {
    const log: string[] = [];
    const loop = aLoop();
    const { turn } = loop;
    enqueue(loop, 1, { name: "a", requests: 300, log });
    expect(log).toHaveLength(128);
    turn();
    expect(log).toHaveLength(256);
    turn();
    expect(log).toHaveLength(300);
    turn();
    expect(turn()).toBe(false);
  });

  test("lets sockets be polled after 10 milliseconds of requests that cost much, and a user with one be served", () => {
    const log: string[] = [];
    const loop = aLoop();
    const { turn } = loop;
    enqueue(loop, 1, { name: "a", requests: 100, log, costMs: 4 });
    expect(log).toHaveLength(3);
    enqueue(loop, 2, { name: "b", requests: 1, log, costMs: 4 });
    turn();
    expect(log).toHaveLength(6);
    expect(log).toContain("b");
  });

  test("goes on after a request that failed", () => {
    const log: string[] = [];
    const loop = aLoop();
    const { queues } = loop;
    const failing = {
      handleNext(): void {
        throw new Error("a defect");
      },
    };
    expect(() => queues.enqueue(1, failing)).toThrow("a defect");
    enqueue(loop, 2, { name: "b", requests: 1, log });
    expect(log).toEqual(["b"]);
  });

  test("tells when a turn began as long as it lasts, also one that fails, and else what the clock says", () => {
    const { queues, clock } = aLoop();
    const told: number[] = [];
    const source = (costMs: number, fails = false): RequestSource => ({
      handleNext() {
        told.push(queues.roughMs());
        clock.ms += costMs;
        told.push(queues.roughMs());
        if (fails) throw new Error("on purpose");
      },
    });
    clock.ms = 100;
    queues.enqueue(1, source(3));
    expect(() => queues.enqueue(1, source(4, true))).toThrow("on purpose");
    expect(told).toEqual([100, 100, 103, 103]);
    expect(queues.roughMs()).toBe(107);
  });

  test("looks at the clock twice for a source that is alone, and once more for each that follows it", () => {
    const waiting: (() => void)[] = [];
    let looks = 0;
    const queues = new RoundRobin(new LoopIterations((run) => waiting.push(run)), () => looks++ * 0);
    const alone: RequestSource = { handleNext() {} };
    queues.enqueue(1, alone);
    expect(looks).toBe(2);
    queues.enqueue(1, {
      handleNext() {
        queues.enqueue(1, alone);
        queues.enqueue(2, alone);
      },
    });
    expect(looks).toBe(6);
  });

  test("goes round between users, one request each, however many connections one has", () => {
    const log: string[] = [];
    const loop = aLoop();
    const { turn } = loop;
    // What is in line while a batch runs is there when the next begins.
    enqueue(loop, 1, { name: "a", requests: 129, log });
    for (let i = 0; i < 1_000; i++) enqueue(loop, 1, { name: "a", requests: 100, log });
    log.length = 0;
    enqueue(loop, 2, { name: "b", requests: 3, log });
    enqueue(loop, 3, { name: "c", requests: 3, log });
    turn();
    expect(log.slice(0, 9).join("")).toBe("abcabcabc");
    expect(log.slice(9).every((name) => name === "a")).toBe(true);
  });

  test("goes round between the connections of one user", () => {
    const log: string[] = [];
    const loop = aLoop();
    const { turn } = loop;
    enqueue(loop, 1, { name: "x", requests: 129, log });
    log.length = 0;
    enqueue(loop, 1, { name: "y", requests: 2, log });
    enqueue(loop, 1, { name: "z", requests: 2, log });
    turn();
    expect(log.join("")).toBe("xyzyz");
  });

  test("takes a connection that has ended meanwhile", () => {
    const log: string[] = [];
    const loop = aLoop();
    const { queues } = loop;
    queues.enqueue(1, { handleNext: () => {} });
    enqueue(loop, 1, { name: "a", requests: 1, log });
    expect(log).toEqual(["a"]);
  });

  test("takes requests that come while one is handled", () => {
    const log: string[] = [];
    const loop = aLoop();
    const { queues, turn } = loop;
    queues.enqueue(1, {
      handleNext() {
        log.push("first");
        enqueue(loop, 1, { name: "own", requests: 1, log });
        enqueue(loop, 2, { name: "other", requests: 1, log });
        return false;
      },
    });
    while (turn());
    expect(log.sort()).toEqual(["first", "other", "own"]);
  });

  test("does everything once and in nobody's favour, whoever comes with whatever", () => {
    const crowd = fc.array(fc.tuple(fc.nat({ max: 5 }), fc.integer({ min: 1, max: 40 })), {
      minLength: 1,
      maxLength: 30,
    });
    holds(
      fc.property(crowd, (connections) => {
        const log: string[] = [];
        const loop = aLoop();
        const { turn } = loop;
        // The first keeps the line busy, so that all others are in line before any of them has a turn.
        enqueue(loop, 99, { name: "99", requests: 129, log });
        log.length = 0;
        for (const [user, requests] of connections)
          enqueue(loop, user, { name: String(user), requests: requests, log });
        while (turn());
        const total = connections.reduce((sum, [, requests]) => sum + requests, 1);
        expect(log).toHaveLength(total);
        // As long as two users both have requests, neither is ever more than one ahead.
        const wanted = new Map<string, number>();
        for (const [user, requests] of connections)
          wanted.set(String(user), (wanted.get(String(user)) ?? 0) + requests);
        const had = new Map<string, number>();
        for (const name of log) {
          had.set(name, (had.get(name) ?? 0) + 1);
          const busy = [...wanted]
            .filter(([user, all]) => (had.get(user) ?? 0) < all)
            .map(([user]) => had.get(user) ?? 0);
          if (busy.length > 1) expect(Math.max(...busy) - Math.min(...busy)).toBeLessThanOrEqual(1);
        }
      }),
      500,
    );
  });
});

describe("ReadBudget", () => {
  /** A connection that counts how often it was resumed. */
  function aReader(): { resumed: number; resumeReading(): void } {
    return {
      resumed: 0,
      resumeReading() {
        this.resumed++;
      },
    };
  }
  function aBudget() {
    const waiting: (() => void)[] = [];
    const budget = new ReadBudget(new LoopIterations((run) => waiting.push(run)));
    return { budget, turn: () => waiting.splice(0).map((run) => run()).length > 0 };
  }

  test("lets 256 connections of a user be read in an iteration, and other users' none the less", () => {
    const { budget } = aBudget();
    const taken = Array.from({ length: 300 }, () => budget.spend(1, aReader()));
    expect(taken.filter(Boolean)).toHaveLength(256);
    expect(taken.lastIndexOf(true)).toBe(255);
    expect(budget.spend(2, aReader())).toBe(true);
  });

  test("resumes those that were paused in the iterations after it, 256 in each, in their order", () => {
    const { budget, turn } = aBudget();
    const readers = Array.from({ length: 1_000 }, aReader);
    for (const reader of readers) budget.spend(1, reader);
    const lastResumed = () => readers.map(({ resumed }) => resumed).lastIndexOf(1);
    expect(lastResumed()).toBe(-1);
    turn();
    expect([readers[255]?.resumed, readers[256]?.resumed, lastResumed()]).toEqual([0, 1, 511]);
    turn();
    expect(lastResumed()).toBe(767);
    turn();
    expect(lastResumed()).toBe(999);
    expect(readers.filter(({ resumed }) => resumed === 1)).toHaveLength(744);
    expect(turn()).toBe(false);
  });

  test("is smaller for each user where there are many, and never nothing", () => {
    const { budget, turn } = aBudget();
    for (let user = 0; user < 64; user++) budget.spend(user, aReader());
    turn();
    const of = (user: number) =>
      Array.from({ length: 300 }, () => budget.spend(user, aReader())).filter(Boolean);
    expect(of(1)).toHaveLength(32);
    for (let user = 0; user < 10_000; user++) budget.spend(user, aReader());
    while (turn());
    for (let user = 0; user < 10_000; user++) budget.spend(user, aReader());
    turn();
    expect(of(1)).toHaveLength(16);
  });

  test("begins anew in each iteration", () => {
    const { budget, turn } = aBudget();
    for (let i = 0; i < 256; i++) budget.spend(1, aReader());
    turn();
    expect(budget.spend(1, aReader())).toBe(true);
  });

  test("costs nothing when nothing is read", () => {
    const { turn } = aBudget();
    expect(turn()).toBe(false);
  });
});
