import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Iterations, Reads, Turns, type Work } from "../../src/http/scheduling.ts";
import { holds } from "../support/fuzz.ts";

/** A loop that a test turns: what yields waits for the next turn. */
function aLoop() {
  const waiting: (() => void)[] = [];
  const clock = { ms: 0 };
  const turns = new Turns(new Iterations((run) => waiting.push(run)), () => clock.ms);
  return {
    turns,
    clock,
    /** One turn of the event loop; false where nothing waited. */
    turn: (): boolean => {
      const run = waiting.shift();
      run?.();
      return run !== undefined;
    },
  };
}

/** A connection with so many requests ready; each is written to the log. */
function aConnection(name: string, requests: number, log: string[]): Work & { left: number } {
  return {
    left: requests,
    step() {
      log.push(name);
      this.left--;
      return this.left > 0;
    },
  };
}

describe("Turns", () => {
  test("hold nobody back who is alone", () => {
    const log: string[] = [];
    const { turns, turn } = aLoop();
    turns.add(1, aConnection("a", 128, log));
    expect(log).toHaveLength(128);
    while (turn());
    expect(log).toHaveLength(128);
  });

  test("let sockets be looked at after 128 requests, however many sockets bring them", () => {
    const log: string[] = [];
    const { turns, turn } = aLoop();
    for (let socket = 0; socket < 1_000; socket++) turns.add(1, aConnection("a", 1, log));
    expect(log).toHaveLength(128);
    turn();
    expect(log).toHaveLength(256);
    while (turn());
    expect(log).toHaveLength(1_000);
    // And each turn of the loop has its own.
    for (let socket = 0; socket < 1_000; socket++) turns.add(1, aConnection("a", 1, log));
    expect(log).toHaveLength(1_128);
  });

  test("let sockets be looked at after 128 requests", () => {
    const log: string[] = [];
    const { turns, turn } = aLoop();
    turns.add(1, aConnection("a", 300, log));
    expect(log).toHaveLength(128);
    turn();
    expect(log).toHaveLength(256);
    turn();
    expect(log).toHaveLength(300);
    turn();
    expect(turn()).toBe(false);
  });

  test("let sockets be looked at after 10 milliseconds of requests that cost much, and a user with one be served", () => {
    const log: string[] = [];
    const { turns, turn, clock } = aLoop();
    const costly = (name: string, requests: number) => {
      const { step } = aConnection(name, requests, log);
      return {
        left: requests,
        step() {
          clock.ms += 4;
          return step.call(this as never);
        },
      };
    };
    turns.add(1, costly("a", 100));
    expect(log).toHaveLength(3);
    turns.add(2, costly("b", 1));
    turn();
    expect(log).toHaveLength(6);
    expect(log).toContain("b");
  });

  test("go on after a step that failed", () => {
    const log: string[] = [];
    const { turns } = aLoop();
    const failing = {
      step(): boolean {
        throw new Error("a defect");
      },
    };
    expect(() => turns.add(1, failing)).toThrow("a defect");
    turns.add(2, aConnection("b", 1, log));
    expect(log).toEqual(["b"]);
  });

  test("go round between users, one request each, however many connections one has", () => {
    const log: string[] = [];
    const { turns, turn } = aLoop();
    // What is in line while a batch runs is there when the next begins.
    turns.add(1, aConnection("a", 129, log));
    for (let i = 0; i < 1_000; i++) turns.add(1, aConnection("a", 100, log));
    log.length = 0;
    turns.add(2, aConnection("b", 3, log));
    turns.add(3, aConnection("c", 3, log));
    turn();
    expect(log.slice(0, 9).join("")).toBe("abcabcabc");
    expect(log.slice(9).every((name) => name === "a")).toBe(true);
  });

  test("go round between the connections of one user", () => {
    const log: string[] = [];
    const { turns, turn } = aLoop();
    turns.add(1, aConnection("x", 129, log));
    log.length = 0;
    turns.add(1, aConnection("y", 2, log));
    turns.add(1, aConnection("z", 2, log));
    turn();
    expect(log.join("")).toBe("xyzyz");
  });

  test("take connections of which one has ended meanwhile", () => {
    const log: string[] = [];
    const { turns } = aLoop();
    turns.add(1, { step: () => false });
    turns.add(1, aConnection("a", 1, log));
    expect(log).toEqual(["a"]);
  });

  test("take work that comes while work is done", () => {
    const log: string[] = [];
    const { turns, turn } = aLoop();
    turns.add(1, {
      step() {
        log.push("first");
        turns.add(1, aConnection("own", 1, log));
        turns.add(2, aConnection("other", 1, log));
        return false;
      },
    });
    while (turn());
    expect(log.sort()).toEqual(["first", "other", "own"]);
  });

  test("do everything once and in nobody's favour, whoever comes with whatever", () => {
    const crowd = fc.array(fc.tuple(fc.nat({ max: 5 }), fc.integer({ min: 1, max: 40 })), {
      minLength: 1,
      maxLength: 30,
    });
    holds(
      fc.property(crowd, (connections) => {
        const log: string[] = [];
        const { turns, turn } = aLoop();
        // The first keeps the line busy, so that all others are in line before any of them has a turn.
        turns.add(99, aConnection("99", 129, log));
        log.length = 0;
        for (const [user, requests] of connections) turns.add(user, aConnection(String(user), requests, log));
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

describe("Reads", () => {
  /** What is read of one connection, and how often it was woken. */
  function aReader(): { wakes: number; wake(): void } {
    return {
      wakes: 0,
      wake() {
        this.wakes++;
      },
    };
  }
  function aLoopOfReads() {
    const waiting: (() => void)[] = [];
    const reads = new Reads(new Iterations((run) => waiting.push(run)));
    return { reads, turn: () => waiting.splice(0).map((run) => run()).length > 0 };
  }

  test("let 256 connections of a user be read in an iteration, and others none the less", () => {
    const { reads } = aLoopOfReads();
    const taken = Array.from({ length: 300 }, () => reads.take(1, aReader()));
    expect(taken.filter(Boolean)).toHaveLength(256);
    expect(taken.lastIndexOf(true)).toBe(255);
    expect(reads.take(2, aReader())).toBe(true);
  });

  test("wake those who rest in the iterations after it, 256 in each, in their order", () => {
    const { reads, turn } = aLoopOfReads();
    const readers = Array.from({ length: 1_000 }, aReader);
    for (const reader of readers) reads.take(1, reader);
    const woken = () => readers.map(({ wakes }) => wakes).lastIndexOf(1);
    expect(woken()).toBe(-1);
    turn();
    expect([readers[255]?.wakes, readers[256]?.wakes, woken()]).toEqual([0, 1, 511]);
    turn();
    expect(woken()).toBe(767);
    turn();
    expect(woken()).toBe(999);
    expect(readers.filter(({ wakes }) => wakes === 1)).toHaveLength(744);
    expect(turn()).toBe(false);
  });

  test("are fewer for each where many are read for, and never none", () => {
    const { reads, turn } = aLoopOfReads();
    for (let user = 0; user < 64; user++) reads.take(user, aReader());
    turn();
    const of = (user: number) =>
      Array.from({ length: 300 }, () => reads.take(user, aReader())).filter(Boolean);
    expect(of(1)).toHaveLength(32);
    for (let user = 0; user < 10_000; user++) reads.take(user, aReader());
    while (turn());
    for (let user = 0; user < 10_000; user++) reads.take(user, aReader());
    turn();
    expect(of(1)).toHaveLength(16);
  });

  test("begin anew in each iteration", () => {
    const { reads, turn } = aLoopOfReads();
    for (let i = 0; i < 256; i++) reads.take(1, aReader());
    turn();
    expect(reads.take(1, aReader())).toBe(true);
  });

  test("cost nothing when nothing is read", () => {
    const { turn } = aLoopOfReads();
    expect(turn()).toBe(false);
  });
});
