import { expect, test } from "bun:test";
import { join } from "node:path";
import { fileRanges } from "../../src/platform/memory-lock.ts";

test("the ranges behind which a file stands: not those that cannot be read, nor memory of no file", () => {
  const maps = `00400000-00401000 r--p 00000000 fe:00 1234                      /usr/local/bin/imdsproxy
00401000-00500000 r-xp 00001000 fe:00 1234                      /usr/local/bin/imdsproxy
00500000-00600000 ---p 00001000 fe:00 1234                      /usr/local/bin/imdsproxy
7f0000000000-7f0100000000 rw-p 00000000 00:00 0 
7f0200000000-7f0200001000 rw-p 00000000 00:00 0                 [heap]
7f0300000000-7f0300002000 rw-s 00000000 00:01 77                /memfd:x (deleted)
`;
  expect(fileRanges(maps)).toEqual([
    { start: 0x400000n, length: 0x1000n },
    { start: 0x401000n, length: 0xff000n },
    { start: 0x7f0300000000n, length: 0x2000n },
  ]);
});

test("lockProgram() locks the program, and takes no memory for it", () => {
  const program = `
    const { lockProgram } = require(${JSON.stringify(join(import.meta.dir, "../../src/platform/memory-lock.ts"))});
    const status = (name) => Number(new RegExp(name + ":\\\\s+(\\\\d+)").exec(require("fs").readFileSync("/proc/self/status", "utf8"))[1]);
    const before = status("RssFile");
    const locked = lockProgram();
    console.log(JSON.stringify({ locked, kernel: status("VmLck"), before, after: status("RssFile") }));`;
  const run = Bun.spawnSync([process.execPath, "-e", program]);
  const { locked, kernel, before, after } = JSON.parse(run.stdout.toString()) as Record<string, number>;
  // Without CAP_IPC_LOCK the limit may be too low; then nothing is locked, and nothing is broken.
  if (process.getuid?.() !== 0) return;
  expect(locked).toBeGreaterThan(50_000_000);
  expect(kernel).toBe((locked ?? 0) / 1024);
  // Everything at once would be 80 MiB.
  expect((after ?? 0) - (before ?? 0)).toBeLessThan(30_000);
});
