import { describe, expect, test } from "bun:test";
import { type Asker, StatusServer } from "../../src/wiring/status-server.ts";

/** A server on connections that a test makes. */
function aServer(document: (asker: Asker) => Promise<object> = async (asker) => asker) {
  const waiting = { root: [] as number[], users: [] as number[] };
  let next = 10;
  let nowMs = 1_000;
  const written = new Map<number, string>();
  const ended: number[] = [];
  const closed: number[] = [];
  const gone = new Set<number>();
  /** Bytes that a connection takes at a time. */
  let takes = 1_000_000;
  const listener = (queue: number[]) => ({
    accept: () => {
      const uid = queue.shift();
      return uid === undefined ? null : { descriptor: next++, uid };
    },
    close: () => {},
  });
  const server = new StatusServer({
    document,
    // 100000 and more are alice's subordinate uids.
    shareOfUid: (uid) => (uid >= 100_000 ? "alice's" : uid),
    nowMs: () => nowMs,
    listen: () => ({ root: listener(waiting.root), users: listener(waiting.users) }),
    connections: {
      write(descriptor, bytes) {
        const some = bytes.subarray(0, takes);
        written.set(descriptor, (written.get(descriptor) ?? "") + Buffer.from(some).toString());
        return some.length;
      },
      endSending: (descriptor) => void ended.push(descriptor),
      hungUp: (held) => new Set(held.filter((one) => gone.has(one))),
      close: (descriptor) => void closed.push(descriptor),
    },
  });
  const look = async () => {
    server.look();
    for (let i = 0; i < 10; i++) await Promise.resolve();
  };
  return {
    server,
    waiting,
    written,
    ended,
    closed,
    gone,
    look,
    advance: (ms: number) => {
      nowMs += ms;
    },
    take: (bytes: number) => {
      takes = bytes;
    },
  };
}

describe("StatusServer", () => {
  test("tells each who they are by the kernel, and ends its answer", async () => {
    const { waiting, written, ended, closed, look } = aServer();
    waiting.root.push(0);
    waiting.users.push(2001, 100_007);
    await look();
    expect([...written.values()].map((text) => JSON.parse(text))).toEqual([
      { kind: "root" },
      { kind: "user", uid: 2001, share: 2001 },
      { kind: "user", uid: 100_007, share: "alice's" },
    ]);
    expect([ended, closed]).toEqual([[10, 11, 12], []]);
  });

  test("holds a connection until its client closes it, and four of a user at most: also of all their subordinate uids", async () => {
    const { server, waiting, closed, gone, look } = aServer();
    waiting.users.push(...Array.from({ length: 50 }, (_, index) => 100_000 + index), 2002);
    await look();
    expect([server.held, closed.length]).toEqual([5, 46]);
    gone.add(10);
    waiting.users.push(100_001, 100_002);
    await look();
    expect(server.held).toBe(5);
  });

  test("holds 64 of all users together; who asks then is answered, and the first who has an answer gives way", async () => {
    const { server, waiting, written, ended, closed, look } = aServer();
    waiting.users.push(...Array.from({ length: 64 }, (_, index) => 3_000 + index));
    await look();
    expect([server.held, closed]).toEqual([64, []]);
    waiting.users.push(4_000, 4_001);
    await look();
    expect([server.held, closed]).toEqual([64, [10, 11]]);
    expect([...written.values()].slice(-2).map((text) => JSON.parse(text).uid)).toEqual([4_000, 4_001]);
    expect(ended).toContain(75);
    waiting.root.push(0);
    await look();
    expect([[...written.values()].at(-1), closed.length]).toEqual(['{"kind":"root"}', 2]);
  });

  test("nobody gives way who has not the whole answer, nor to who has four already", async () => {
    const { server, waiting, closed, look, take } = aServer();
    take(6);
    waiting.users.push(...Array.from({ length: 64 }, (_, index) => 3_000 + index), 4_000);
    await look();
    expect([server.held, closed]).toEqual([64, [74]]);
    take(1_000_000);
    await look();
    waiting.users.push(4_000, 4_000, 4_000, 4_000, 4_000);
    await look();
    expect([server.held, closed]).toEqual([64, [74, 10, 11, 12, 13, 79]]);
  });

  test("takes 128 at one look, however many have connected", async () => {
    const { waiting, closed, look } = aServer();
    waiting.users.push(...Array.from({ length: 1_000 }, () => 2001));
    await look();
    expect(waiting.users.length).toBe(1_000 - 128);
    expect(closed.length).toBe(124);
  });

  test("makes a user's document once in a second", async () => {
    let made = 0;
    const { waiting, gone, look, advance } = aServer(async () => ({ made: ++made }));
    for (let i = 0; i < 5; i++) {
      waiting.users.push(2001);
      await look();
      gone.add(10 + i);
      advance(100);
    }
    expect(made).toBe(1);
    advance(1_000);
    waiting.users.push(2001);
    await look();
    expect(made).toBe(2);
  });

  test("goes on with a long answer at each look, and gives it up after ten seconds", async () => {
    const { server, waiting, written, ended, closed, look, advance, take } = aServer();
    take(6);
    waiting.root.push(0);
    await look();
    expect(written.get(10)).toBe('{"kind');
    await look();
    await look();
    expect([written.get(10), ended]).toEqual(['{"kind":"root"}', [10]]);
    take(0);
    waiting.root.push(0);
    await look();
    advance(10_001);
    await look();
    expect([closed, server.held]).toEqual([[11], 1]);
  });

  test("closes without an answer where the document cannot be made", async () => {
    const { server, waiting, written, closed, look } = aServer(() => Promise.reject(new Error("no")));
    waiting.root.push(0);
    await look();
    expect([written.size, closed, server.held]).toEqual([0, [10], 0]);
  });

  test("writes nothing to a connection that has ended while its document was made", async () => {
    const document = Promise.withResolvers<object>();
    const { server, waiting, written, gone, look } = aServer(() => document.promise);
    waiting.root.push(0);
    await look();
    gone.add(10);
    await look();
    document.resolve({});
    await look();
    expect([server.held, written.size]).toEqual([0, 0]);
  });
});

test("the time for reading a long answer begins with the answer, however long that was waited for", async () => {
  const { promise, resolve } = Promise.withResolvers<object>();
  const { waiting, written, ended, closed, look, advance, take } = aServer(() => promise);
  const document = { text: "x".repeat(100) };
  take(60);
  waiting.root.push(0);
  await look();
  advance(11_000);
  resolve(document);
  await look();
  for (let more = 0; more < 3; more++) {
    advance(100);
    await look();
  }
  expect([JSON.parse(written.get(10) ?? ""), ended, closed]).toEqual([document, [10], []]);
});
