import { expect, test } from "bun:test";
import { ArgumentReader } from "../../src/observe/argument-reader.ts";
import { CallerCount } from "../../src/observe/callers.ts";

const PROCESS = { pid: 30, startTime: "1", program: "/bin/a", parents: [] };
const callerOf = (uid: number) =>
  new CallerCount({ uid, container: null, place: { kind: "login" }, program: "/bin/a" });

test("ArgumentReader keeps redacted arguments of a process that is still the one that was found", async () => {
  const [one, other] = [callerOf(1), callerOf(2)];
  await new ArgumentReader(
    () => true,
    async () => "a\0x\0--token=1\0",
  ).take(one, PROCESS);
  await new ArgumentReader(
    () => false,
    async () => "a\0x\0",
  ).take(other, PROCESS);
  expect([one.arguments, other.arguments]).toEqual([["x", "--token="], null]);
});
test("ArgumentReader tries five times, and a user whose process kept it waiting never again", async () => {
  let reads = 0;
  const short = new ArgumentReader(
    () => false,
    async () => {
      reads++;
      return "a\0";
    },
  );
  const one = callerOf(1);
  for (let i = 0; i < 20; i++) await short.take(one, PROCESS);
  expect(reads).toBe(5);
  reads = 0;
  const slow = new ArgumentReader(
    () => true,
    async () => {
      reads++;
      return null;
    },
  );
  for (let i = 0; i < 20; i++) await slow.take(callerOf(1), PROCESS);
  await slow.take(callerOf(2), PROCESS);
  expect(reads).toBe(2);
});
test("ArgumentReader reads for one user once at a time, and for two users at most", async () => {
  const waiting: (() => void)[] = [];
  const reader = new ArgumentReader(
    () => true,
    () => new Promise((done) => waiting.push(() => done("a\0b\0"))),
  );
  const callers = [1, 1, 2, 3].map(callerOf);
  const all = callers.map((caller) => reader.take(caller, PROCESS));
  expect(waiting.length).toBe(2);
  for (const done of waiting) done();
  await Promise.all(all);
  expect(callers.map((caller) => caller.arguments)).toEqual([["b"], null, ["b"], null]);
});
test("ArgumentReader reads this process by head(1)", async () => {
  const caller = callerOf(1);
  await new ArgumentReader(() => true).take(caller, { ...PROCESS, pid: process.pid });
  expect(caller.arguments).not.toBeNull();
});
