import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  accessSync,
  chmodSync,
  constants,
  mkdirSync,
  mkdtempSync,
  rmdirSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Cgroup, Cgroups, type CgroupTree } from "../../src/identity/cgroup.ts";
import { cgroupMount, cgroupTree } from "../../src/identity/cgroup-tree.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

describe("cgroupMount()", () => {
  const v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
  const hybrid = "30 24 0:27 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw";
  const v1 = "31 24 0:28 / /sys/fs/cgroup/cpu rw shared:6 - cgroup cgroup rw,cpu";
  test("finds where cgroup v2 is mounted", () => {
    expect(cgroupMount(`x\n${v2}\n`)).toBe("/sys/fs/cgroup");
    expect(cgroupMount(`${v1}\n${hybrid}\n`)).toBe("/sys/fs/cgroup/unified");
  });
  test("finds none where there is none", () => {
    expect(cgroupMount(`${v1}\n`)).toBeNull();
    expect(cgroupMount("")).toBeNull();
  });
});

/** In memory where that can be: making and removing nine thousand directories on a disk takes a second. */
function fastDirectory(): string {
  try {
    accessSync("/dev/shm", constants.W_OK);
    return "/dev/shm";
  } catch {
    return tmpdir();
  }
}

const ALICE = "/user.slice/user-2001.slice";
const JOB = "/system.slice/slurmstepd.scope/job_7";

describe("Cgroups.resolve()", () => {
  /** A tree whose passes outside of subtrees each wait for `walk`; what is there when a pass begins is what it finds. */
  function aTree() {
    const tree = new Map<bigint, string>([[1n, "/"]]);
    const walks: (() => void)[] = [];
    const looks: bigint[] = [];
    const clock = new FakeClock();
    const cgroups = new Cgroups(
      {
        async *outside() {
          const found = [...tree];
          await new Promise<void>((resolve) => walks.push(resolve));
          for (const [id, path] of found) yield { id, path, subtree: false };
        },
        async *below() {},
        isThere(path, id) {
          looks.push(id);
          return tree.get(id) === path;
        },
      },
      clock,
    );
    const walk = async (): Promise<void> => {
      await settle();
      walks.shift()?.();
      await settle();
    };
    return { tree, walks, looks, cgroups, walk, clock };
  }

  test("walks the tree once for all who wait, and answers at once after that", async () => {
    const { tree, walks, cgroups, walk } = aTree();
    tree.set(7n, "/a");
    const crowd = Array.from({ length: 50 }, () => cgroups.resolve(7n));
    await settle();
    expect(walks).toHaveLength(1);
    await walk();
    expect(await Promise.all(crowd)).toEqual(Array(50).fill("/a"));
    expect(cgroups.resolve(7n)).toBe("/a");
  });

  test("does not believe a walk that began before the question", async () => {
    const { tree, walks, cgroups, walk } = aTree();
    const first = cgroups.resolve(7n);
    await settle();
    tree.set(8n, "/b");
    const second = cgroups.resolve(8n);
    const third = cgroups.resolve(8n);
    await walk();
    expect(await first).toBeNull();
    await settle();
    expect(walks).toHaveLength(1);
    await walk();
    expect([await second, await third]).toEqual(["/b", "/b"]);
  });

  test("does not know one that has ended, for a socket that outlives it: a second later at the most, and for ever", async () => {
    const { tree, looks, walks, cgroups, walk, clock } = aTree();
    tree.set(7n, "/a");
    const first = cgroups.resolve(7n);
    await walk();
    expect(await first).toBe("/a");
    tree.delete(7n);
    await clock.advance(999);
    expect(cgroups.resolve(7n)).toBe("/a");
    await clock.advance(1);
    for (let asked = 0; asked < 50; asked++) expect(cgroups.resolve(7n)).toBeNull();
    // A cgroup of the same name is another.
    tree.set(8n, "/a");
    await clock.advance(10_000);
    expect(cgroups.resolve(7n)).toBeNull();
    expect([looks, walks]).toEqual([[7n], []]);
  });

  test("looks once a second whether one is still there,", async () => {
    const { tree, looks, cgroups, walk, clock } = aTree();
    tree.set(7n, "/a");
    const first = cgroups.resolve(7n);
    await walk();
    await first;
    for (let second = 0; second < 3; second++) {
      await clock.advance(1_000);
      for (let asked = 0; asked < 50; asked++) expect(cgroups.resolve(7n)).toBe("/a");
    }
    expect(looks).toEqual([7n, 7n, 7n]);
  });

  test("knows null of one that never was", async () => {
    const { cgroups, walk } = aTree();
    const never = cgroups.resolve(99n);
    await walk();
    expect(await never).toBeNull();
  });

  test("walks once for a gone cgroup that is asked for 100 times, and again after a second", async () => {
    const { cgroups, walks, walk, clock } = aTree();
    const first = cgroups.resolve(99n);
    await walk();
    expect(await first).toBeNull();
    for (let time = 0; time < 100; time++) expect(await cgroups.resolve(99n)).toBeNull();
    expect(walks).toHaveLength(0);
    await clock.advance(1_000);
    const later = cgroups.resolve(99n);
    await settle();
    expect(walks).toHaveLength(1);
    await walk();
    expect(await later).toBeNull();
  });

  test("pauses as long as a walk took that did not find all, but no longer than 300 ms", async () => {
    for (const [tookMs, pauseMs] of [
      [40, 40],
      [5_000, 300],
    ] as const) {
      const { cgroups, walks, walk, clock } = aTree();
      const gone = cgroups.resolve(98n);
      await settle();
      clock.jump(tookMs);
      await walk();
      expect(await gone).toBeNull();
      const other = cgroups.resolve(99n);
      await clock.advance(pauseMs - 1);
      expect(walks).toHaveLength(0);
      await clock.advance(1);
      expect(walks).toHaveLength(1);
      await walk();
      expect(await other).toBeNull();
    }
  });

  test("does not pause after a walk that found all", async () => {
    const { tree, cgroups, walks, walk, clock } = aTree();
    tree.set(7n, "/a");
    const found = cgroups.resolve(7n);
    await settle();
    clock.jump(200);
    await walk();
    expect(await found).toBe("/a");
    cgroups.resolve(8n);
    await settle();
    expect(walks).toHaveLength(1);
  });

  test("passes on that the tree cannot be walked, and walks again for the next", async () => {
    let broken = true;
    const tree: CgroupTree = {
      async *outside() {
        if (broken) throw new Error("broken");
        yield { id: 7n, path: "/a", subtree: false };
      },
      async *below() {},
      isThere: () => true,
    };
    const cgroups = new Cgroups(tree, new FakeClock());
    await expect(Promise.resolve(cgroups.resolve(7n))).rejects.toThrow("broken");
    broken = false;
    expect(await cgroups.resolve(7n)).toBe("/a");
  });
});

describe("Cgroups.resolve() beside a user with any number of cgroups", () => {
  /** Alice's subtree has no end; a job's has what is in `inJob`. The log says whose cgroups were met. */
  function aTree() {
    const log: string[] = [];
    const inJob = new Map<bigint, string>([[70n, `${JOB}/step_0`]]);
    const subtrees = [ALICE, JOB];
    const state = { end: Number.POSITIVE_INFINITY, pauseEvery: 1 };
    const tree: CgroupTree = {
      async *outside() {
        log.push("outside");
        yield { id: 1n, path: "/", subtree: false };
        for (const [index, path] of subtrees.entries()) yield { id: BigInt(index + 2), path, subtree: true };
      },
      async *below(subtree) {
        if (subtree === JOB) {
          for (const [id, path] of [...inJob]) {
            log.push("job");
            yield { id, path, subtree: false };
          }
          return;
        }
        for (let made = 0; made < state.end; made++) {
          log.push("alice");
          // Whoever else has something to do gets to it.
          if (made % state.pauseEvery === 0) await settle();
          yield { id: 1_000_000n + BigInt(made), path: `${subtree}/${made}`, subtree: false };
        }
      },
      isThere: () => true,
    };
    const clock = new FakeClock();
    return { log, inJob, subtrees, state, clock, cgroups: new Cgroups(tree, clock) };
  }
  const count = (log: readonly string[], what: string): number => log.filter((one) => one === what).length;

  test("finds a job's cgroup before the walk of the user's is over, in turns, and stops there", async () => {
    const { log, inJob, cgroups } = aTree();
    for (let step = 1; step < 5; step++) inJob.set(70n + BigInt(step), `${JOB}/step_${step}`);
    expect(await cgroups.resolve(74n)).toBe(`${JOB}/step_4`);
    expect(count(log, "alice")).toBe(5);
    await settle();
    await settle();
    expect(count(log, "alice")).toBe(5);
  });

  test("finds what is new while the walk goes on for an id of the user's that is nowhere", async () => {
    const { log, inJob, subtrees, state, cgroups } = aTree();
    const gone = cgroups.resolve(999n);
    while (count(log, "alice") < 20) await settle();
    // In a subtree that the walk has been through, and in one that it has not seen.
    inJob.set(80n, `${JOB}/step_8`);
    expect(await cgroups.resolve(80n)).toBe(`${JOB}/step_8`);
    subtrees.push("/user.slice/user-2002.slice");
    expect(await cgroups.resolve(4n)).toBe("/user.slice/user-2002.slice");
    expect(count(log, "outside")).toBe(3);
    state.end = 0;
    expect(await gone).toBeNull();
  });

  test("says null only after each subtree was walked from its beginning", async () => {
    const { log, state, cgroups } = aTree();
    state.end = 30;
    expect(await cgroups.resolve(999n)).toBeNull();
    expect([count(log, "outside"), count(log, "alice"), count(log, "job")]).toEqual([1, 30, 1]);
  });

  test("ever new ids that are nowhere get no more turns outside than the subtrees get", async () => {
    const { log, state, cgroups } = aTree();
    state.end = 100;
    const asked: (string | null | Promise<string | null>)[] = [];
    for (let id = 5_000n; count(log, "alice") < 90; id++) {
      asked.push(cgroups.resolve(id));
      await settle();
    }
    // Three cgroups each time.
    expect(count(log, "outside") * 3).toBeLessThanOrEqual(count(log, "alice") + count(log, "job") + 6);
    expect(new Set(await Promise.all(asked))).toEqual(new Set([null]));
  });

  test("pauses for as long as it worked", async () => {
    const { log, clock, state, cgroups } = aTree();
    state.end = 100;
    const gone = cgroups.resolve(999n);
    while (count(log, "alice") < 20) await settle();
    clock.jump(150);
    for (let time = 0; time < 20; time++) await settle();
    const before = log.length;
    await clock.advance(149);
    expect(log.length).toBe(before);
    await clock.advance(1);
    expect(log.length).toBeGreaterThan(before);
    expect(await gone).toBeNull();
  });

  test("does not forget others' cgroups for the user's", async () => {
    const { log, state, clock, cgroups } = aTree();
    state.end = 30_000;
    state.pauseEvery = 100;
    expect(await cgroups.resolve(70n)).toBe(`${JOB}/step_0`);
    expect(await cgroups.resolve(999n)).toBeNull();
    expect(count(log, "alice")).toBeGreaterThanOrEqual(30_000);
    for (const id of [1n, 3n, 70n]) expect(typeof cgroups.resolve(id)).toBe("string");
    // Of hers the latest.
    expect(cgroups.resolve(1_029_999n)).toBe(`${ALICE}/29999`);
    const forgotten = cgroups.resolve(1_000_000n);
    expect(forgotten).toBeInstanceOf(Promise);
    await clock.advance(1_000);
    expect(await forgotten).toBe(`${ALICE}/0`);
  });
});

describe("cgroupTree()", () => {
  let mount: string;
  const make = (path: string): bigint => {
    // Whatever the umask is: what others may write is a subtree.
    mkdirSync(`${mount}${path}`, { recursive: true, mode: 0o755 });
    return statSync(`${mount}${path}`, { bigint: true }).ino;
  };
  const task = `${JOB}/step_0/user/task_0`;
  let taskId: bigint;

  beforeAll(() => {
    mount = mkdtempSync(join(fastDirectory(), "imdsproxy-cgroup-"));
    // More than a subtree's budget of 4,096, and as many in one directory.
    const many = (directory: (made: number) => string) => {
      const parents = new Set<string>();
      for (let made = 0; made < 4_200; made++) {
        const parent = directory(made);
        if (!parents.has(parent)) make(parent);
        parents.add(parent);
        mkdirSync(`${mount}${parent}/${made}`, { mode: 0o755 });
      }
    };
    many((made) => `${ALICE}/user@2001.service/${made % 50}`);
    many(() => "/user.slice/user-2002.slice/flat");
    make("/user.slice/user-2002.slice/other/inner");
    taskId = make(task);
    make("/system.slice/node1_slurmstepd.scope/job_8/step_0");
    make("/system.slice/a.service/inner");
    make("/system.slice/delegated.service/inner");
    chmodSync(`${mount}/system.slice/delegated.service`, 0o775);
  });
  afterAll(() => rmSync(mount, { recursive: true, force: true }));

  const all = async (pass: AsyncIterable<Cgroup>): Promise<Cgroup[]> => {
    const met: Cgroup[] = [];
    for await (const cgroup of pass) met.push(cgroup);
    return met;
  };

  test("stops at user subtrees, and goes by levels", async () => {
    const met = await all(cgroupTree(mount).outside());
    expect(
      met
        .filter(({ subtree }) => subtree)
        .map(({ path }) => path)
        .sort(),
    ).toEqual([
      "/system.slice/delegated.service",
      "/system.slice/node1_slurmstepd.scope/job_8",
      JOB,
      ALICE,
      "/user.slice/user-2002.slice",
    ]);
    expect(
      met
        .filter(({ subtree }) => !subtree)
        .map(({ path }) => path)
        .sort(),
    ).toEqual([
      "/",
      "/system.slice",
      "/system.slice/a.service",
      "/system.slice/a.service/inner",
      "/system.slice/node1_slurmstepd.scope",
      "/system.slice/slurmstepd.scope",
      "/user.slice",
    ]);
    const depths = met.map(({ path }) => (path === "/" ? 0 : path.split("/").length - 1));
    expect(depths).toEqual(depths.toSorted((a, b) => a - b));
    for (const { id, path } of met) expect(id).toBe(statSync(`${mount}${path}`, { bigint: true }).ino);
  });

  test("tells whether a cgroup is still there: not one that has gone, nor another in its place", () => {
    const tree = cgroupTree(mount);
    const path = "/system.slice/slurmstepd.scope/job_99";
    const id = make(path);
    expect([tree.isThere(path, id), tree.isThere(path, id + 1n)]).toEqual([true, false]);
    rmdirSync(`${mount}${path}`);
    expect(tree.isThere(path, id)).toBe(false);
    expect(tree.isThere("/", statSync(mount, { bigint: true }).ino)).toBe(true);
  });

  test("meets no more of a subtree than its budget", async () => {
    const met = await all(cgroupTree(mount).below(ALICE));
    expect(met).toHaveLength(4_096);
    expect(met.some(({ subtree }) => subtree)).toBe(false);
  });

  test("does not read a list longer than the budget, and reads what is beside it", async () => {
    const met = await all(cgroupTree(mount).below("/user.slice/user-2002.slice"));
    expect(met.map(({ path }) => path.slice("/user.slice/user-2002.slice".length)).sort()).toEqual([
      "",
      "/flat",
      "/other",
      "/other/inner",
    ]);
  });

  test("passes over what ends while it walks, and finds nothing where nothing is", async () => {
    make("/system.slice/b.service/x");
    for await (const { path } of cgroupTree(mount).outside()) {
      if (path === "/system.slice/b.service") rmdirSync(`${mount}/system.slice/b.service/x`);
      expect(path).not.toBe("/system.slice/b.service/x");
    }
    rmdirSync(`${mount}/system.slice/b.service`);
    expect(await all(cgroupTree(`${mount}/none`).outside())).toEqual([]);
    expect(await all(cgroupTree(mount).below("/none"))).toEqual([]);
  });

  test("a job's cgroup is found before more than a few of the users' are met", async () => {
    const real = cgroupTree(mount);
    let met = 0;
    const counted: CgroupTree = {
      outside: () => real.outside(),
      async *below(subtree) {
        for await (const cgroup of real.below(subtree)) {
          met++;
          yield cgroup;
        }
      },
      isThere: () => true,
    };
    const cgroups = new Cgroups(counted, new FakeClock());
    expect(await cgroups.resolve(taskId)).toBe(task);
    // Four levels of the job's, and as many turns for each of five subtrees.
    expect(met).toBeLessThanOrEqual(20);
    expect(await cgroups.resolve(1n)).toBeNull();
  });
});
