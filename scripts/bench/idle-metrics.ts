import { processUsage } from "../../src/platform/process-usage.ts";
import type { SessionBroker } from "../../src/sessions/broker.ts";
import { Metrics, type MetricsSources } from "../../src/telemetry/metrics.ts";

/** The metrics of a proxy on which nothing but requests happens: no firewall, no reload, no object of a fleet. */
export const idleMetrics = (broker: SessionBroker, audit: MetricsSources["audit"]): Metrics =>
  new Metrics({
    server: () => ({ connections: 0, users: 0 }),
    broker: () => broker.counts(),
    firewall: () => null,
    dropped: () => null,
    object: () => null,
    configuration: () => ({
      isCurrent: true,
      lastReloadSuccessful: true,
      reloads: { success: 0, failure: 0 },
      loadedAtMs: 0,
    }),
    lagMs: () => 0,
    audit,
    lostLines: () => 0,
    process: processUsage,
  });
