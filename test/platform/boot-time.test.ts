import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { bootMs } from "../../src/platform/boot-time.ts";

/** proc(5), /proc/uptime: seconds since the start, "including time spent in suspend". In hundredths. */
const uptimeMs = () => Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]) * 1_000;

test("the time since the start is the kernel's, and goes on", () => {
  const before = uptimeMs();
  const first = bootMs();
  const second = bootMs();
  const after = uptimeMs();
  expect(first).toBeGreaterThanOrEqual(before - 10);
  expect(second).toBeGreaterThanOrEqual(first);
  expect(after).toBeGreaterThanOrEqual(second - 10);
});
