import { expect, test } from "bun:test";
import { RecentCallers } from "../../src/imds/recent-callers.ts";

const uids = (recent: RecentCallers, sinceMs = 0) => recent.since(sinceMs).map(({ uid }) => uid);

test("who asked last is last, and is there once", () => {
  const recent = new RecentCallers();
  for (const [at, uid] of [2001, 2002, 2001].entries()) recent.note({ uid, cgroupId: null }, uid, at);
  expect(uids(recent)).toEqual([2002, 2001]);
  expect(uids(recent, 2)).toEqual([2001]);
  expect(recent.changes).toBe(2);
});

test("each cgroup of a user is one of its own", () => {
  const recent = new RecentCallers();
  for (const cgroupId of [7n, 8n, 7n]) recent.note({ uid: 2001, cgroupId }, 2001, 0);
  expect(recent.since(0).map(({ cgroupId }) => cgroupId)).toEqual([8n, 7n]);
});

test("one user with many uids keeps 16 places, and takes nobody's", () => {
  const recent = new RecentCallers();
  recent.note({ uid: 2002, cgroupId: null }, 2002, 0);
  for (let uid = 300_000; uid < 310_000; uid++) recent.note({ uid, cgroupId: null }, "subordinate 2001", 1);
  expect(uids(recent)).toEqual([2002, ...Array.from({ length: 16 }, (_, at) => 309_984 + at)]);
});

test("there are 256 in all, and who asked the longest ago makes room", () => {
  const recent = new RecentCallers();
  for (let uid = 1; uid <= 1_000; uid++) recent.note({ uid, cgroupId: null }, uid, uid);
  expect(uids(recent)).toEqual(Array.from({ length: 256 }, (_, at) => 745 + at));
});
