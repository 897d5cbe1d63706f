import type { BrokerCounts } from "../../src/sessions/summary.ts";
import type { MetricsSources } from "../../src/telemetry/metrics.ts";

/** The counts of a broker that remembers nothing. */
export const NO_SESSIONS: BrokerCounts = {
  sessions: 0,
  entries: 0,
  inFlight: 0,
  states: { fresh: 0, low: 0, pending: 0, denied: 0, failed: 0 },
  leastLifeMs: new Map(),
};

export const SOURCES: MetricsSources = {
  server: () => ({ connections: 7, users: 3 }),
  broker: () => ({
    ...NO_SESSIONS,
    sessions: 5,
    entries: 6,
    inFlight: 4,
    states: { fresh: 4, low: 1, pending: 0, denied: 2, failed: 0 },
    leastLifeMs: new Map([
      ["arn:aws:iam::842413447717:role/A", 1_800_000],
      ["arn:aws:iam::842413447717:role/B", 60_500],
    ]),
  }),
  firewall: () => ({
    repairs: 2,
    healthy: true,
    lastRepair: null,
    lastCheck: "2030-01-01T00:00:00.000Z",
    repairsByKind: { iptables: 3, routing: 1 },
  }),
  dropped: () => ({ new_user: 11, unredirected: 0 }),
  configuration: () => ({
    isCurrent: true,
    lastReloadSuccessful: false,
    reloads: { success: 3, failure: 1 },
    loadedAtMs: 1_000_500,
  }),
  object: () => ({ serial: 42, hash: "ab12", lastPollSuccessful: false, succeededAtMs: 2_000_500 }),
  lagMs: () => 12,
  audit: () => ({ journal: 8, stderr: 1, suppressed: 9 }),
  lostLines: () => 2,
  process: () => ({
    userSeconds: 1.5,
    systemSeconds: 0.5,
    residentBytes: 100_000_000,
    openFiles: 20,
    maxFiles: 65_536,
    threads: null,
    startSeconds: 1_700_000_000,
  }),
};
