import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { removeInheritedLocks } from "../../src/service/account-locks.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-locks-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

/** A lock as useradd writes it: its pid, with a zero byte. */
function lock(name: string, pid: number, writtenS: number): string {
  const path = join(directory, `${name}.lock`);
  writeFileSync(path, `${pid}\0`);
  utimesSync(path, writtenS, writtenS);
  return path;
}
const nowS = () => Date.now() / 1_000;

test("a lock from before the process that has its pid was started is removed", () => {
  const paths = [lock("passwd", process.pid, 1_000_000_000), lock("gshadow", process.pid, 1_000_000_000)];
  expect(removeInheritedLocks(directory)).toEqual(paths);
  expect(paths.map((path) => existsSync(path))).toEqual([false, false]);
});

test("a lock that its process may have written stays, and so does one whose process is gone, which useradd takes itself", () => {
  const paths = [lock("passwd", process.pid, nowS()), lock("group", 2 ** 22 + 1, 1_000_000_000)];
  writeFileSync(join(directory, "shadow.lock"), "");
  expect(removeInheritedLocks(directory)).toEqual([]);
  expect(paths.map((path) => existsSync(path))).toEqual([true, true]);
  expect(removeInheritedLocks(join(directory, "nowhere"))).toEqual([]);
});
