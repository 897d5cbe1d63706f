import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type RecentCaller, RecentCallers } from "../../src/imds/recent-callers.ts";
import { bootMs } from "../../src/platform/boot-time.ts";
import { makeAnew, SPREAD_MS } from "../../src/wiring/anew.ts";
import { readCallers, writeCallers } from "../../src/wiring/callers-file.ts";
import { keepCallers } from "../../src/wiring/keep-callers.ts";
import { FakeClock } from "../support/fake-clock.ts";

const NOW = Date.UTC(2030, 0, 1);
const HOUR = 3_600_000;
const ALICE: RecentCaller = { uid: 2001, cgroupId: null, askedAtMs: NOW - 1 };
const JOB: RecentCaller = { uid: 2002, cgroupId: 12_345_678_901_234_567n, askedAtMs: NOW - 2 };

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-callers-"));
});
afterEach(() => rmSync(directory, { recursive: true }));
const file = () => join(directory, "callers.json");
const read = (nowMs = NOW) => readCallers(directory, nowMs, nowMs - HOUR);

describe("who asked last is kept in a file", () => {
  test("that only the service reads, in numbers alone, and is read again", async () => {
    await writeCallers(directory, [ALICE, JOB], NOW);
    expect(read()).toEqual([ALICE, JOB]);
    expect(statSync(file()).mode & 0o777).toBe(0o600);
    expect(readFileSync(file(), "utf8")).toMatch(/^[\d[\]{},.:"a-zA-Z-]+$/);
    expect(readdirSync(directory)).toEqual(["callers.json"]);
  });

  test("in which who asked more than an hour ago, or in the future, does not count", async () => {
    await writeCallers(
      directory,
      [{ ...ALICE, askedAtMs: NOW - HOUR - 1 }, { ...ALICE, askedAtMs: NOW + 1 }, JOB],
      NOW,
    );
    expect(read()).toEqual([JOB]);
  });

  test("that is passed over after a boot: the node was up for less time then", async () => {
    const beganMs = bootMs();
    await writeCallers(directory, [ALICE], NOW);
    // The uptime is the machine's, which goes on while the disk is busy.
    const laterMs = (ms: number) => NOW + (bootMs() - beganMs) + ms;
    // The same file at a moment from which the uptime leads back to another boot.
    expect(readCallers(directory, laterMs(61_000 + 1_000), 0)).toEqual([]);
    expect(readCallers(directory, laterMs(30_000), 0)).toEqual([ALICE]);
  });

  const damaged: [name: string, damage: () => void][] = [
    ["missing", () => rmSync(file())],
    ["cut", () => writeFileSync(file(), readFileSync(file(), "utf8").slice(0, 30))],
    ["no JSON", () => writeFileSync(file(), "\0".repeat(100))],
    ["huge", () => writeFileSync(file(), " ".repeat(100_000) + readFileSync(file(), "utf8"))],
    ["one that others can write", () => chmodSync(file(), 0o666)],
    ["one with root", () => replace("2001", "0")],
    ["one with a uid that is none", () => replace("2001", "4294967295")],
    ["one with a uid in words", () => replace("2001", '"alice"')],
    ["one with a cgroup in words", () => replace('"12345678901234567"', '"../../x"')],
  ];
  const replace = (what: string, by: string) =>
    writeFileSync(file(), readFileSync(file(), "utf8").replace(what, by));
  for (const [name, damage] of damaged) {
    test(`that is as none when it is ${name}`, async () => {
      await writeCallers(directory, [ALICE, JOB], NOW);
      damage();
      expect(read()).toEqual([]);
    });
  }
});

describe("keepCallers()", () => {
  const keep = (recent: RecentCallers, clock: FakeClock, said: string[] = []) =>
    keepCallers({
      recent,
      stateDirectory: directory,
      forMs: HOUR,
      clock,
      log: { debug() {}, info() {}, warn: (message) => void said.push(message), error() {} },
    });

  test("writes what there is at the end", async () => {
    const clock = new FakeClock(NOW);
    const recent = new RecentCallers();
    const kept = keep(recent, clock);
    recent.note({ uid: 2001, cgroupId: null }, 2001, clock.now());
    await kept.stop();
    expect(read().map(({ uid }) => uid)).toEqual([2001]);
    expect(clock.pending).toBe(0);
  });

  test("writes somebody new soon, so that a kill finds them", async () => {
    const clock = new FakeClock(NOW);
    const recent = new RecentCallers();
    const kept = keep(recent, clock);
    recent.note({ uid: 2001, cgroupId: null }, 2001, clock.now());
    await clock.advance(5_000);
    // The clock is the test's and the disk is not.
    while (readCallers(directory, clock.now(), 0).length === 0) await Bun.sleep(1);
    await kept.stop();
    expect(kept.finding()).toBeNull();
  });

  test("writes again soon where the disk took nothing for a moment, and says nothing of it any more", async () => {
    const recent = new RecentCallers();
    const clock = new FakeClock(NOW);
    rmSync(directory, { recursive: true });
    const kept = keep(recent, clock);
    recent.note({ uid: 2001, cgroupId: null }, 2001, clock.now());
    /** Looks once. Whether the next look waits shows that this one has ended: the clock is the test's and the disk is not. */
    const look = async () => {
      await clock.advance(5_000);
      while (clock.pending === 0) await Bun.sleep(1);
    };
    await look();
    expect(kept.finding()).not.toBeNull();
    mkdirSync(directory);
    await look();
    expect(kept.finding()).toBeNull();
    expect(readCallers(directory, clock.now(), 0).map(({ uid }) => uid)).toEqual([2001]);
    await kept.stop();
  });

  test("says once that the disk takes nothing, and goes on", async () => {
    const said: string[] = [];
    const recent = new RecentCallers();
    const clock = new FakeClock(NOW);
    rmSync(directory, { recursive: true });
    const kept = keep(recent, clock, said);
    for (const uid of [2001, 2002]) {
      recent.note({ uid, cgroupId: null }, uid, clock.now());
      await clock.advance(5_000);
    }
    await kept.stop();
    expect(said).toHaveLength(1);
    expect(kept.finding()).toMatchObject({
      what: expect.stringContaining(`${directory} cannot be written to (ENOENT)`),
      remedy: expect.stringContaining(`df -h ${directory}`),
    });
    directory = mkdtempSync(join(tmpdir(), "imdsproxy-callers-"));
  });
});

test("sessions are made anew each at a moment of its own, and none after the end", async () => {
  const clock = new FakeClock(NOW);
  const begun: number[] = [];
  const chances = [0.5, 0, 0.999];
  const callers = [1, 2, 3].map((uid) => ({ ...ALICE, uid }));
  const start = () =>
    makeAnew({
      callers,
      begin: ({ uid }) => void begun.push(uid),
      clock,
      random: () => chances[next++ % 3] ?? 0,
    });
  let next = 0;
  start();
  await clock.advance(0);
  expect(begun).toEqual([2]);
  await clock.advance(SPREAD_MS / 2);
  expect(begun).toEqual([2, 1]);
  await clock.advance(SPREAD_MS / 2);
  expect(begun).toEqual([2, 1, 3]);
  start()();
  expect(clock.pending).toBe(0);
});
