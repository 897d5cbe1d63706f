import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { withLock } from "../../src/service/lock.ts";

const MODULE = resolve(import.meta.dir, "../../src/service/lock.ts");
let directory: string;
let path: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-lock-"));
  path = join(directory, "lock");
});
afterEach(() => rmSync(directory, { recursive: true }));

/** Another process that takes the lock, says so, and keeps it until its input ends. */
async function holder() {
  const code = `import { withLock } from ${JSON.stringify(MODULE)};
    await withLock(${JSON.stringify(path)}, 0, () => {}, async () => { console.log("held"); await Bun.stdin.text(); });`;
  const child = Bun.spawn([process.execPath, "-e", code], { stdin: "pipe", stdout: "pipe" });
  await child.stdout.getReader().read();
  return child;
}

describe("withLock()", () => {
  test("lets one in after the other, and leaves no file", async () => {
    const child = await holder();
    const order: string[] = [];
    const waiting = withLock(
      path,
      10_000,
      () => order.push("waits"),
      async () => order.push("in"),
    );
    while (order.length === 0) await Bun.sleep(5);
    expect(order).toEqual(["waits"]);
    child.stdin.end();
    await waiting;
    expect(order).toEqual(["waits", "in"]);
    expect(existsSync(path)).toBe(false);
  });

  test("is free again when its holder is killed", async () => {
    const child = await holder();
    child.kill("SIGKILL");
    await child.exited;
    expect(
      await withLock(
        path,
        0,
        () => {},
        async () => "in",
      ),
    ).toBe("in");
  });

  test("gives up after the time that it was given, and says how to find the other", async () => {
    const child = await holder();
    const waiting = withLock(
      path,
      100,
      () => {},
      async () => "in",
    );
    await expect(waiting).rejects.toThrow("another setup");
    await waiting.catch(() => {});
    child.kill("SIGKILL");
  });

  test("is let go where somebody has removed its file, and what was done counts", async () => {
    const done = withLock(
      path,
      0,
      () => {},
      async () => {
        rmSync(path);
        return "done";
      },
    );
    expect(await done).toBe("done");
  });

  test("is not taken through a link", async () => {
    writeFileSync(join(directory, "victim"), "");
    symlinkSync(join(directory, "victim"), path);
    const taken = withLock(
      path,
      0,
      () => {},
      async () => "in",
    );
    await expect(taken).rejects.toThrow("ELOOP");
    await taken.catch(() => {});
  });
});
