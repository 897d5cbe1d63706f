import { expect, test } from "bun:test";
import { join } from "node:path";
import { describeAsRoot } from "../support/root.ts";

// Without CAP_IPC_LOCK the kernel's limit may be too low, and then nothing is locked.
describeAsRoot("with CAP_IPC_LOCK", () => {
  test("lockProgram() locks the program, and takes no memory for it", () => {
    const program = `
      const { lockProgram } = require(${JSON.stringify(join(import.meta.dir, "../../src/platform/memory-lock.ts"))});
      const status = (name) => Number(new RegExp(name + ":\\\\s+(\\\\d+)").exec(require("fs").readFileSync("/proc/self/status", "utf8"))[1]);
      const before = status("RssFile");
      const locked = lockProgram();
      console.log(JSON.stringify({ locked, kernel: status("VmLck"), before, after: status("RssFile") }));`;
    const run = Bun.spawnSync([process.execPath, "-e", program]);
    const { locked, kernel, before, after } = JSON.parse(run.stdout.toString()) as Record<string, number>;
    expect(locked).toBeGreaterThan(50_000_000);
    expect(kernel).toBe((locked ?? 0) / 1024);
    // Everything at once would be 80 MiB.
    expect((after ?? 0) - (before ?? 0)).toBeLessThan(30_000);
  });
});
