import { afterAll, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { lockHolder, waitForLock } from "../../src/platform/file-lock.ts";

describe("lockHolder()", () => {
  // On a tmpfs, as /run is: overlayfs and btrfs have numbers of devices of their own for stat(2).
  const directory = mkdtempSync("/dev/shm/lock-");
  const path = join(directory, "lock");
  afterAll(() => rmSync(directory, { recursive: true }));

  test("nobody where the file is not there, or is there and not locked", () => {
    expect(lockHolder(join(directory, "none"))).toBeNull();
    writeFileSync(path, "");
    expect(lockHolder(path)).toBeNull();
  });
  test("who has it, and nobody when it is closed; to ask takes it from nobody", async () => {
    const descriptor = await waitForLock(path, { limitMs: 0, pollMs: 1 });
    expect(lockHolder(path)).toBe(process.pid);
    expect(await waitForLock(path, { limitMs: 0, pollMs: 1 })).toBeNull();
    closeSync(descriptor ?? -1);
    expect(lockHolder(path)).toBeNull();
  });
  test("not who waits for it, has a part of it, or has the same number on another device", () => {
    const { ino, dev } = statSync(path);
    const [major, minor] = [(dev >> 8) & 0xff, dev & 0xff].map((part) => part.toString(16).padStart(2, "0"));
    const file = `${major}:${minor}:${ino}`;
    const others = [
      `1: -> FLOCK  ADVISORY  WRITE 11 ${file} 0 EOF`,
      `2: POSIX  ADVISORY  WRITE 12 ${file} 0 EOF`,
      `3: FLOCK  ADVISORY  WRITE 13 fff:ff:${ino} 0 EOF`,
      `4: FLOCK  ADVISORY  WRITE 14 ${file}1 0 EOF`,
      `5: FLOCK  ADVISORY  WRITE 0 ${file} 0 EOF`,
    ].join("\n");
    expect(lockHolder(path, others)).toBeNull();
    if (dev < 0x10000)
      expect(lockHolder(path, `${others}\n6: FLOCK  ADVISORY  WRITE 15 ${file} 0 EOF\n`)).toBe(15);
  });
});
