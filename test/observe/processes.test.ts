import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Processes } from "../../src/observe/processes.ts";

let proc = "";
beforeEach(() => {
  proc = mkdtempSync(join(tmpdir(), "imdsproxy-proc-"));
});
afterEach(() => rmSync(proc, { recursive: true }));

function readlinkOrNothing(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    // The directory was read through a descriptor that is closed by now.
    return "";
  }
}

/** A process as /proc shows it. */
function add(
  pid: number,
  options: { parent?: number; name?: string; exe?: string; start?: number; sockets?: number[] },
): void {
  const { parent = 1, name = "sh", exe = "/bin/sh", start = pid * 10, sockets = [] } = options;
  mkdirSync(join(proc, `${pid}/fd`), { recursive: true });
  const fields = ["S", parent, ...Array.from({ length: 17 }, () => 0), start, 0];
  writeFileSync(join(proc, `${pid}/stat`), `${pid} (${name}) ${fields.join(" ")}\n`);
  symlinkSync(exe, join(proc, `${pid}/exe`));
  symlinkSync("/dev/null", join(proc, `${pid}/fd/0`));
  for (const [index, inode] of sockets.entries())
    symlinkSync(`socket:[${inode}]`, join(proc, `${pid}/fd/${3 + index}`));
}

describe("Processes", () => {
  test("lists a cgroup's processes, the newest first, and none where there is no such file", () => {
    mkdirSync(join(proc, "group"));
    writeFileSync(join(proc, "group/cgroup.procs"), "12\n3\n0\n400\n");
    const processes = new Processes(proc);
    expect(processes.inCgroup(join(proc, "group"))).toEqual([400, 12, 3]);
    expect(processes.inCgroup(join(proc, "other"))).toEqual([]);
  });
  test("finds the process that has a socket, with its parents in the same cgroup", () => {
    add(10, { parent: 1, name: "main" });
    add(20, { parent: 10, name: "a) S 1 (b", exe: "/opt/bin/python3.11" });
    add(30, { parent: 20, exe: "/usr/bin/curl", sockets: [77, 78] });
    expect(new Processes(proc).withSocket(77, [30, 20, 10])).toEqual({
      pid: 30,
      startTime: "300",
      program: "/usr/bin/curl",
      parents: ["a) S 1 (b", "main"],
    });
  });
  test("finds nothing for another socket, and in processes that are gone", () => {
    add(30, { sockets: [77] });
    const processes = new Processes(proc);
    expect(processes.withSocket(7, [30])).toBeNull();
    expect(processes.withSocket(77, [31])).toBeNull();
  });
  test("finds nothing where another process has the pid meanwhile", () => {
    add(30, { sockets: [77], exe: "/usr/bin/curl" });
    const found = new Processes(proc).withSocket(77, [30]);
    rmSync(join(proc, "30"), { recursive: true });
    add(30, { sockets: [77], exe: "/usr/bin/curl", start: 999 });
    const processes = new Processes(proc);
    expect(found && [processes.isStill(found), processes.hasSocket(found, 77)]).toEqual([false, false]);
  });
  test("does not take a process for the same that runs another program by now", () => {
    add(30, { sockets: [77], exe: "/bin/sh" });
    const processes = new Processes(proc);
    const found = processes.withSocket(77, [30]);
    expect(found && processes.hasSocket(found, 77)).toBe(true);
    rmSync(join(proc, "30/exe"));
    symlinkSync("/opt/bin/aws", join(proc, "30/exe"));
    expect(found && [processes.isStill(found), processes.hasSocket(found, 77)]).toEqual([true, false]);
  });
  test("makes the program's path plain, and calls it unknown where there is none", () => {
    add(30, { sockets: [77], exe: "/tmp/\x1b[31mevil\n" });
    add(31, { sockets: [78] });
    rmSync(join(proc, "31/exe"));
    const processes = new Processes(proc);
    expect(processes.withSocket(77, [30])?.program).toBe("/tmp/?[31mevil?");
    expect(processes.withSocket(78, [31])?.program).toBe("unknown");
  });
  test("ends with parents that go round in a circle", () => {
    add(30, { parent: 31, sockets: [77] });
    add(31, { parent: 30 });
    expect(new Processes(proc).withSocket(77, [31, 30])?.parents).toHaveLength(6);
  });
  test("this very process has its own socket", () => {
    const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    try {
      const inodes = readdirSync("/proc/self/fd").flatMap((name) => {
        const target = readlinkOrNothing(`/proc/self/fd/${name}`);
        return [...target.matchAll(/^socket:\[(\d+)\]$/g)].map(([, inode]) => Number(inode));
      });
      expect(inodes.length).toBeGreaterThan(0);
      for (const inode of inodes) {
        const found = new Processes().withSocket(inode, [process.pid]);
        expect([found?.pid, found?.program]).toEqual([process.pid, readlinkSync("/proc/self/exe")]);
      }
    } finally {
      server.stop();
    }
  });
});
