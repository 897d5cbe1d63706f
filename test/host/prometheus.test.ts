import { describe, expect, test } from "bun:test";
import { Metrics } from "../../src/telemetry/metrics.ts";
import { dashboardQueries, metricNames, rules } from "../support/prometheus.ts";
import { SOURCES } from "../telemetry/metrics-support.ts";

async function promtool(...args: string[]) {
  const run = Bun.spawn(["promtool", ...args], { stdout: "pipe", stderr: "pipe" });
  const said = (await new Response(run.stdout).text()) + (await new Response(run.stderr).text());
  return { exitCode: await run.exited, said };
}

describe("docs/prometheus:", () => {
  test("promtool finds no fault in the rules", async () => {
    const { exitCode, said } = await promtool("check", "rules", "docs/prometheus/imdsproxy.rules.yml");
    expect([exitCode, said]).toEqual([0, expect.stringContaining("SUCCESS")]);
  });

  test("each alert fires for what it is about, and none for a node that is well", async () => {
    const { exitCode, said } = await promtool("test", "rules", "docs/prometheus/imdsproxy.rules.test.yml");
    expect([exitCode, said]).toEqual([0, expect.stringContaining("SUCCESS")]);
    const tests = await Bun.file("docs/prometheus/imdsproxy.rules.test.yml").text();
    const alerts = rules().flatMap(({ alert }) => alert ?? []);
    expect(alerts.length).toBeGreaterThan(10);
    for (const alert of alerts)
      expect([alert, tests.includes(`name: ${alert} fires`)]).toEqual([alert, true]);
  });

  test("rules and dashboard name no metric that there is not", async () => {
    const text = await new Metrics(SOURCES).text();
    const types = new Map(
      [...text.matchAll(/^# TYPE (\S+) (\S+)/gm)].map(([, name = "", type = ""]) => [name, type]),
    );
    const exists = (name: string) =>
      name === "up" ||
      (types.has(name) && types.get(name) !== "histogram") ||
      types.get(name.replace(/_(?:bucket|sum|count)$/, "")) === "histogram";
    const named = [...rules(), ...dashboardQueries()].flatMap(({ expr }) => metricNames(expr));
    expect(new Set(named).size).toBeGreaterThan(20);
    expect([...new Set(named)].filter((name) => !exists(name))).toEqual([]);
  });
});
