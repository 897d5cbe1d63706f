import { describe, expect, test } from "bun:test";
import { closeSync, fstatSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { waitForLock } from "../../src/platform/file-lock.ts";
import { ReentrantLock } from "../../src/platform/reentrant-lock.ts";

/** A lock of which it is noted when it is taken and given back. */
function aLock() {
  const events: string[] = [];
  const lock = new ReentrantLock(async () => {
    events.push("taken");
    return openSync("/dev/null", "r");
  });
  return { events, lock };
}

const isOpen = (descriptor: number | null): boolean => {
  try {
    return descriptor !== null && fstatSync(descriptor).isCharacterDevice();
  } catch {
    return false;
  }
};

describe("ReentrantLock", () => {
  test("a call at the same time waits, and has the lock until its own end", async () => {
    const { events, lock } = aLock();
    const first = Promise.withResolvers<void>();
    const running = lock.run(async () => {
      events.push("first begins");
      await first.promise;
      events.push("first ends");
    });
    const second = lock.run(async () => {
      events.push("second begins");
      await Promise.resolve();
      return isOpen(lock.descriptor);
    });
    const third = lock.run(async () => void events.push("third"));
    await Bun.sleep(0);
    expect(events).toEqual(["taken", "first begins"]);
    first.resolve();
    expect(await second).toBe(true);
    await Promise.all([running, third]);
    expect(events).toEqual([
      "taken",
      "first begins",
      "first ends",
      "taken",
      "second begins",
      "taken",
      "third",
    ]);
    expect(lock.descriptor).toBeNull();
  });

  test("a call from inside joins in, also after a wait, and leaves the lock to the outer one", async () => {
    const { events, lock } = aLock();
    const told = await lock.run(async () => {
      await Bun.sleep(1);
      const inner = await lock.run(async () => {
        await Promise.resolve();
        return lock.descriptor;
      });
      return [inner === lock.descriptor, isOpen(inner)];
    });
    expect(told).toEqual([true, true]);
    expect(events).toEqual(["taken"]);
  });

  test("what the work left behind takes the lock anew", async () => {
    const { events, lock } = aLock();
    const over = Promise.withResolvers<void>();
    const { later } = await lock.run(async () => ({
      later: over.promise.then(() => lock.run(async () => isOpen(lock.descriptor))),
    }));
    over.resolve();
    expect(await later).toBe(true);
    expect(events).toEqual(["taken", "taken"]);
  });

  test("is given back where the work fails, and passed on where it cannot be taken", async () => {
    const directory = mkdtempSync(join(tmpdir(), "imdsproxy-reentrant-"));
    const path = join(directory, "lock");
    try {
      const lock = new ReentrantLock(() => waitForLock(path, { limitMs: 0, pollMs: 1 }));
      await expect(lock.run(() => Promise.reject(new Error("no")))).rejects.toThrow("no");
      const other = await waitForLock(path, { limitMs: 0, pollMs: 1 });
      expect(other).not.toBeNull();
      closeSync(other ?? -1);

      let isTaken = true;
      const contended = new ReentrantLock(async () => {
        if (isTaken) throw new Error("somebody else has it");
        return null;
      });
      await expect(contended.run(async () => "done")).rejects.toThrow("somebody else has it");
      isTaken = false;
      expect(await contended.run(async () => "done")).toBe("done");
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test("without a file, calls still wait for each other", async () => {
    const lock = new ReentrantLock(async () => null);
    let inside = 0;
    let most = 0;
    await Promise.all(
      [1, 2, 3].map(() =>
        lock.run(async () => {
          most = Math.max(most, ++inside);
          await Bun.sleep(1);
          inside--;
        }),
      ),
    );
    expect(most).toBe(1);
  });
});
