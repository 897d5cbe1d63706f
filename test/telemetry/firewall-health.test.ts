import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readFirewallHealth, repairKind } from "../../src/telemetry/firewall-health.ts";

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
    const byKind = { ...health, repairsByKind: { iptables: 2, closed: 1 } };
    expect(read(JSON.stringify(byKind))).toEqual(byKind);
    expect(read(JSON.stringify({ ...health, repairsByKind: { iptables: "2", other: 3 } }))).toEqual({
      ...health,
      repairsByKind: {},
    });
    for (const text of ["", "null", "[]", "{}", '{"repairs": "2"}'])
      expect([text, read(text)]).toEqual([text, null]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test.each([
  ["ipv4 filter: everything of ours is gone", "iptables"],
  ["IPv6 nat: the jump is not first", "iptables"],
  ["second wall: rule pref 0 to 169.254.169.254 is missing, and 4 more", "routing"],
  ["nf_tables: the table inet imdsproxy_limits is missing", "limits"],
  ["closed to users since the boot, until the rules are there", "closed"],
])("what the watch found, %j, is of the kind %s", (found, kind) => {
  expect(repairKind(found)).toBe(kind as ReturnType<typeof repairKind>);
});
