import { beforeEach, describe, expect, test } from "bun:test";
import { Callers } from "../../src/observe/callers.ts";
import type { LoggedPacket } from "../../src/observe/nflog.ts";
import { type Evidence, Observer } from "../../src/observe/observer.ts";
import type { FoundProcess } from "../../src/observe/processes.ts";
import { packet, SYN } from "./support.ts";

const CURL: FoundProcess = { pid: 30, startTime: "1", program: "/usr/bin/curl", parents: ["sh"] };
const CGROUP = "/user.slice/user-2001.slice/session-1.scope";
const GET = "GET /latest/user-data HTTP/1.1\r\n\r\n";

/** What the kernel would say; a test changes it. */
let world: { process: FoundProcess | null; socket: boolean; searches: number; cgroup: string | null };
let nowMs = 0;
let callers: Callers;
let observer: Observer;
let told: string[];

beforeEach(() => {
  world = { process: CURL, socket: true, searches: 0, cgroup: CGROUP };
  nowMs = 1_000_000;
  told = [];
  const evidence: Evidence = {
    socket: (tuple) => (world.socket ? { state: 2, uid: 2001, inode: 1, cgroupId: 5n, tuple } : null),
    cgroupPath: () => world.cgroup,
    processesIn: () => [30],
    withSocket: () => {
      world.searches++;
      return world.process;
    },
    hasSocket: (found) => world.process?.pid === found.pid,
  };
  callers = new Callers((uid) => uid);
  observer = new Observer({
    evidence,
    callers,
    nowMs: () => nowMs,
    shareOf: (uid) => uid,
    onProcess: (_, { program }) => told.push(program),
  });
});

const take = (options: Parameters<typeof packet>[0], more: Partial<LoggedPacket> = {}) =>
  observer.take({ group: 1, uid: 2001, sequence: 0, outInterface: 2, ...more, bytes: packet(options) });
const connect = (fromPort = 40_000, more: Partial<LoggedPacket> = {}) => {
  take({ flags: SYN, sequence: 99, fromPort }, more);
  take({ sequence: 100, data: GET, fromPort }, more);
};
const seen = () =>
  callers
    .snapshot()
    .map(({ uid, place, program, connections, requests }) => [
      uid,
      place.kind,
      program,
      connections,
      requests,
    ]);

describe("Observer", () => {
  test("counts a connection and its request for the process that has the socket", () => {
    connect();
    expect(seen()).toEqual([[2001, "login", "/usr/bin/curl", 1, 1]]);
    expect(callers.snapshot()[0]).toMatchObject({
      cgroup: CGROUP,
      parents: ["sh"],
      firstMs: nowMs,
      lastMs: nowMs,
    });
    expect(told).toEqual(["/usr/bin/curl"]);
  });
  test("searches once for a process that asks again and again", () => {
    for (let i = 0; i < 100; i++) connect(40_000 + i);
    expect([seen()[0]?.[3], world.searches]).toEqual([100, 1]);
  });
  test("says unknown where the process or the socket is gone", () => {
    world.process = null;
    connect();
    world.socket = false;
    connect(40_001);
    expect(seen().sort()).toEqual([
      [2001, "login", "unknown", 1, 1],
      [2001, "unknown", "unknown", 1, 1],
    ]);
  });
  test("looks again at the request, and counts the connection where it belongs, once", () => {
    world.process = null;
    take({ flags: SYN, sequence: 99 });
    world.process = CURL;
    take({ sequence: 100, data: GET });
    expect(seen()).toEqual([[2001, "login", "/usr/bin/curl", 1, 1]]);
  });
  test("knows a job by its cgroup", () => {
    world.cgroup = "/system.slice/slurmstepd.scope/job_12/step_0/user/task_0";
    connect();
    expect(callers.snapshot()[0]).toMatchObject({ place: { kind: "slurm" }, jobs: ["12"] });
  });
  test("takes a packet from elsewhere for a bridged container's, and one of this node without a uid for nobody's", () => {
    connect(1, { uid: null, outInterface: null });
    connect(2, { uid: null, outInterface: 2 });
    expect(callers.snapshot().map(({ container, place }) => [container, place.kind])).toEqual([
      ["10.0.0.5", "bridge"],
      [null, "login"],
    ]);
  });
  test("one user who makes it search does not use up the searches of others", () => {
    world.process = null;
    for (let i = 0; i < 5_000; i++) take({ flags: SYN, sequence: 99, fromPort: 1_000 + i });
    expect(world.searches).toBe(400);
    take({ flags: SYN, sequence: 99, fromPort: 9_000 }, { uid: 2002 });
    expect(world.searches).toBe(401);
    nowMs += 1_000;
    for (let i = 0; i < 5_000; i++) take({ flags: SYN, sequence: 99, fromPort: 10_000 + i });
    expect(world.searches).toBe(451);
  });
  test("counts what is no TCP segment, and goes on", () => {
    observer.take({
      group: 1,
      uid: 1,
      sequence: 0,
      outInterface: 1,
      bytes: new DataView(new ArrayBuffer(3)),
    });
    expect(observer.unread).toBe(1);
  });
});
