import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readFirewallHealth } from "../../src/telemetry/firewall-health.ts";

test("readFirewallHealth() reads what the watch wrote, and takes nothing else for it", () => {
  const directory = mkdtempSync(join(tmpdir(), "imdsproxy-health-"));
  const path = join(directory, "firewall.json");
  const read = (text: string) => {
    writeFileSync(path, text);
    return readFirewallHealth(path);
  };
  const health = { repairs: 2, lastRepair: null, lastCheck: "2026-01-01T00:00:00.000Z", healthy: true };
  try {
    expect(readFirewallHealth(path)).toBeNull();
    expect(read(JSON.stringify(health))).toEqual(health);
    expect(read('{"repairs": 1}')).toEqual({
      repairs: 1,
      lastRepair: null,
      lastCheck: null,
      healthy: false,
    });
    for (const text of ["", "null", "[]", "{}", '{"repairs": "2"}'])
      expect([text, read(text)]).toEqual([text, null]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
