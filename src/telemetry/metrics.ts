// Not the whole of prom-client, which loads node:cluster, node:http and node:zlib for what we do not use.
import Gauge from "prom-client/lib/gauge.js";
import Registry from "prom-client/lib/registry.js";
import type { ServerCounts, TurnedAway } from "../http/server.ts";
import type { UnavailableEvent } from "../identity/accounts.ts";
import type { RequestEvent } from "../imds/request-event.ts";
import type { ProcessUsage } from "../platform/process-usage.ts";
import type { SessionEvent } from "../sessions/events.ts";
import type { BrokerCounts } from "../sessions/summary.ts";
import { version } from "../version.ts";
import type { AuditCounts } from "./audit.ts";
import type { FirewallHealth } from "./firewall-health.ts";
import { CounterSeries, HistogramSeries, readCounter } from "./series.ts";

/** The content type of Prometheus' text format (prometheus.io, "Exposition formats"). */
export const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** The sources of the metrics that are read at each scrape. */
export interface MetricsSources {
  readonly server: () => ServerCounts;
  readonly broker: () => BrokerCounts;
  /** The last report of the watch over the firewall; null where there is none. */
  readonly firewall: () => FirewallHealth | null;
  /** Packets that the kernel's limits dropped, by limit; null where that cannot be read. */
  readonly dropped: () => Readonly<Record<string, number>> | null;
  readonly configuration: () => ConfigurationCounts;
  /** The fleet's object; null where the node takes none. */
  readonly object: () => ObjectCounts | null;
  /** How far the event loop is behind, in milliseconds. */
  readonly lagMs: () => number;
  readonly audit: () => Readonly<AuditCounts>;
  /** Lines of the log that nobody read. */
  readonly lostLines: () => number;
  readonly process: () => ProcessUsage;
}

/** The state of the configuration, and its reloads since the start. */
export interface ConfigurationCounts {
  /** Whether the file on the disk is in effect. */
  readonly isCurrent: boolean;
  readonly lastReloadSuccessful: boolean;
  readonly reloads: { readonly success: number; readonly failure: number };
  /** When the configuration in effect was loaded: milliseconds since the epoch. */
  readonly loadedAtMs: number;
}

/** The fleet's object that runs, and its polls. */
export interface ObjectCounts {
  /** Null where none runs. */
  readonly serial: number | null;
  /** SHA-256 in hexadecimal. Its signature is in it, so that nobody finds the content by trying. */
  readonly hash: string | null;
  /** Null before the first poll. */
  readonly lastPollSuccessful: boolean | null;
  /** Milliseconds since the epoch; null where none has succeeded. */
  readonly succeededAtMs: number | null;
}

export interface MetricsOptions {
  /** Whether a role's ARN is a label, which every local user can then read. */
  readonly roles: boolean;
}

const KINDS = [
  ...[
    "rule",
    "role",
    "denied",
    "identity",
    "request",
    "token",
    "unavailable",
    "busy",
    "malformed",
    "crowded",
  ],
];
const OUTCOMES = ["obtained", "denied", "failed"];
/** Bounds in seconds. A request that nothing waits for takes 20 to 100 microseconds; one that waits for STS up to 3 seconds. */
const REQUEST_BOUNDS = [
  0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
  1, 2.5, 5,
];
const LOOKUP_BOUNDS = [
  0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.01, 0.1,
];
const UPSTREAM_BOUNDS = [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];
const ATTEMPT_BOUNDS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5];
/** Roles that are counted apart; a reload may bring other ones. */
const MAX_ROLES = 256;

/**
 * Metrics in Prometheus' text format. Every local user can read them. So no label names a user or a session, no request can choose
 * the value of a label, and roles are labels only where the configuration says so.
 */
export class Metrics {
  readonly #registry = new Registry();
  readonly #roles: Set<string> | null;
  /** By route and, packed into a number, status and IMDS version. */
  readonly #requests: CounterSeries<number>;
  readonly #routes = new Map<string, number>();
  readonly #requestSeconds: HistogramSeries<string>;
  readonly #lookupSeconds: HistogramSeries<string>;
  readonly #upstreamSeconds: HistogramSeries<string>;
  readonly #unavailable: CounterSeries<string>;
  readonly #refusals: CounterSeries<string>;
  readonly #attempts: CounterSeries<string>;
  readonly #attemptSeconds: HistogramSeries<string>;
  readonly #readFirewall: () => FirewallHealth | null;
  #unidentified = 0;
  #acceptFailures = 0;
  #postponed = 0;
  /** Read once when a scrape begins, because several metrics use each of them. */
  #firewall: FirewallHealth | null = null;
  #broker: BrokerCounts;
  #usage: ProcessUsage;

  constructor(sources: MetricsSources, options: MetricsOptions = { roles: false }) {
    this.#roles = options.roles ? new Set() : null;
    this.#readFirewall = sources.firewall;
    this.#broker = sources.broker();
    this.#usage = sources.process();
    this.#refresh = () => {
      this.#broker = sources.broker();
      this.#usage = sources.process();
    };
    const registry = this.#registry;
    const registers = [registry];
    const firewall = () => this.#firewall;
    const gauge = (name: string, help: string, read: () => number | null) =>
      new Gauge({
        name,
        help,
        registers,
        collect() {
          const value = read();
          // A new gauge is 0, which would mean "not healthy" or 1970 before there is a report.
          if (value === null) this.remove();
          else this.set(value);
        },
      });
    const counted = (name: string, help: string, read: () => number) =>
      readCounter(registry, name, help, () => [{ labels: {}, value: read() }]);
    const countedBy = (
      name: string,
      help: string,
      label: string,
      read: () => Readonly<Record<string, number>>,
    ) =>
      readCounter(registry, name, help, () =>
        Object.entries(read()).map(([by, value]) => ({ labels: { [label]: by }, value })),
      );
    new Gauge({
      name: "imdsproxy_build_info",
      help: "1, with the version that runs as a label",
      labelNames: ["version"],
      registers,
    }).set({ version }, 1);

    this.#requests = new CounterSeries(registry, "imdsproxy_requests_total", "Requests answered");
    this.#requestSeconds = new HistogramSeries(
      registry,
      "imdsproxy_request_duration_seconds",
      "Seconds from a request's turn to its answer, by route",
      REQUEST_BOUNDS,
    );
    this.#refusals = new CounterSeries(
      registry,
      "imdsproxy_refusals_total",
      "Requests and connections refused, by kind",
    );
    for (const kind of KINDS) this.#refusals.begin(kind, { kind });
    counted(
      "imdsproxy_unidentified_total",
      "Connections whose caller could not be identified",
      () => this.#unidentified,
    );
    this.#lookupSeconds = new HistogramSeries(
      registry,
      "imdsproxy_identity_lookup_duration_seconds",
      "Seconds that the kernel took to say whose a connection is, by result",
      LOOKUP_BOUNDS,
    );
    for (const result of ["owner", "refused"]) this.#lookupSeconds.begin(result, { result });
    this.#unavailable = new CounterSeries(
      registry,
      "imdsproxy_names_untold_total",
      "Look-ups of names that a service of NSS did not answer, by outcome: the earlier answer was used, or there was none",
    );
    counted(
      "imdsproxy_accept_failures_total",
      "Times that connections could not be accepted",
      () => this.#acceptFailures,
    );

    this.#attempts = new CounterSeries(registry, "imdsproxy_assume_role_total", "AssumeRole requests");
    this.#attemptSeconds = new HistogramSeries(
      registry,
      "imdsproxy_assume_role_seconds",
      "Seconds that an AssumeRole request took",
      ATTEMPT_BOUNDS,
    );
    if (this.#roles === null) {
      for (const outcome of OUTCOMES) {
        this.#attempts.begin(outcome, { outcome });
        this.#attemptSeconds.begin(outcome, { outcome });
      }
    }
    counted(
      "imdsproxy_assume_role_postponed_total",
      "AssumeRole requests that were delayed by a rate limit",
      () => this.#postponed,
    );
    gauge("imdsproxy_sessions", "Sessions in memory", () => this.#broker.sessions);
    const states = () => this.#broker.states;
    new Gauge({
      name: "imdsproxy_session_requests",
      help: "AssumeRole requests that are remembered, by state: fresh, low, pending, denied, failed",
      labelNames: ["state"],
      registers,
      collect() {
        for (const [state, count] of Object.entries(states())) this.set({ state }, count);
      },
    });
    const leastLife = () => this.#leastLife();
    new Gauge({
      name: "imdsproxy_session_least_life_seconds",
      help: "Seconds until the first session that is served ends; by role where metrics.roles is true",
      labelNames: options.roles ? ["role"] : [],
      registers,
      collect() {
        this.reset();
        const least = leastLife();
        if (!options.roles && least.size === 0) this.remove();
        for (const [role, ms] of least) this.set(options.roles ? { role } : {}, ms / 1_000);
      },
    });

    this.#upstreamSeconds = new HistogramSeries(
      registry,
      "imdsproxy_upstream_request_duration_seconds",
      "Seconds that a request to the node's own metadata service took, by the class of its status",
      UPSTREAM_BOUNDS,
    );
    for (const status of ["2xx", "failed"]) this.#upstreamSeconds.begin(status, { status });

    gauge("imdsproxy_connections", "Open connections", () => sources.server().connections);
    gauge("imdsproxy_connected_users", "Users with open connections", () => sources.server().users);
    gauge(
      "imdsproxy_event_loop_lag_seconds",
      "By how much a timer was late, at worst within the last two seconds",
      () => sources.lagMs() / 1_000,
    );

    counted(
      "imdsproxy_firewall_repairs_total",
      "Times the firewall rules were put right since boot",
      () => firewall()?.repairs ?? 0,
    );
    countedBy(
      "imdsproxy_firewall_repaired_total",
      "Things that were put right since boot, by kind: iptables, routing, limits, closed",
      "kind",
      () => ({ iptables: 0, routing: 0, limits: 0, closed: 0, ...firewall()?.repairsByKind }),
    );
    gauge("imdsproxy_firewall_healthy", "1 where the rules were right at the last check", () => {
      const healthy = firewall()?.healthy;
      return healthy === undefined ? null : Number(healthy);
    });
    gauge(
      "imdsproxy_firewall_last_check_seconds",
      "When the rules were last checked, since the epoch",
      () => {
        const lastCheck = firewall()?.lastCheck ?? null;
        return lastCheck === null ? null : Date.parse(lastCheck) / 1_000;
      },
    );

    countedBy(
      "imdsproxy_limit_dropped_packets_total",
      "Packets that the kernel's limits of connections dropped since their table was made, by limit",
      "limit",
      () => sources.dropped() ?? {},
    );

    const configuration = sources.configuration;
    gauge("imdsproxy_config_current", "1 where the configuration's file on the disk is what runs", () =>
      Number(configuration().isCurrent),
    );
    gauge("imdsproxy_config_last_reload_successful", "0 after a reload that was refused", () =>
      Number(configuration().lastReloadSuccessful),
    );
    gauge(
      "imdsproxy_config_loaded_seconds",
      "When the configuration that runs was loaded, since the epoch",
      () => configuration().loadedAtMs / 1_000,
    );
    countedBy(
      "imdsproxy_config_reloads_total",
      "Reloads of the configuration, by result",
      "result",
      () => configuration().reloads,
    );

    const object = sources.object;
    new Gauge({
      name: "imdsproxy_config_info",
      help: "1, with the serial and the SHA-256 of the fleet's object that runs; version local where there is none",
      labelNames: ["version", "hash"],
      registers,
      collect() {
        this.reset();
        const found = object();
        const version = found === null ? "local" : found.serial === null ? "none" : String(found.serial);
        this.set({ version, hash: found?.hash ?? "" }, 1);
      },
    });
    gauge(
      "imdsproxy_config_last_fetch_successful",
      "0 after a poll of the fleet's object that failed",
      () => {
        const successful = object()?.lastPollSuccessful ?? null;
        return successful === null ? null : Number(successful);
      },
    );
    gauge(
      "imdsproxy_config_fetched_seconds",
      "When the fleet's object was last verified, since the epoch",
      () => {
        const atMs = object()?.succeededAtMs ?? null;
        return atMs === null ? null : atMs / 1_000;
      },
    );

    countedBy(
      "imdsproxy_audit_records_total",
      "Lines of the audit, by where they went: journal, with fields, or stderr",
      "destination",
      () => ({ journal: sources.audit().journal, stderr: sources.audit().stderr }),
    );
    counted(
      "imdsproxy_audit_suppressed_total",
      "Decisions that have no line of their own, because of a rate limit; another line counts them",
      () => sources.audit().suppressed,
    );
    counted("imdsproxy_log_lines_lost_total", "Lines of the log that are lost, because nobody read it", () =>
      sources.lostLines(),
    );

    // The names that all clients of Prometheus give these (prometheus.io, "Writing client libraries": process metrics).
    const usage = () => this.#usage;
    counted("process_cpu_seconds_total", "Processor seconds used, in user and system mode", () => {
      const { userSeconds, systemSeconds } = usage();
      return userSeconds + systemSeconds;
    });
    gauge("process_resident_memory_bytes", "Resident memory in bytes", () => usage().residentBytes);
    gauge("process_open_fds", "Open file descriptors", () => usage().openFiles);
    gauge("process_max_fds", "Most file descriptors that may be open", () => usage().maxFiles);
    gauge("process_threads", "Threads of the process", () => usage().threads);
    gauge(
      "process_start_time_seconds",
      "When the process started, since the epoch",
      () => usage().startSeconds,
    );
  }

  readonly #refresh: () => void;

  request({ route, status, imdsVersion, tookMs, refusal, failure }: RequestEvent): void {
    this.#answered(route, status, imdsVersion);
    if (!this.#requestSeconds.observe(route, tookMs / 1_000)) {
      this.#requestSeconds.begin(route, { route });
      this.#requestSeconds.observe(route, tookMs / 1_000);
    }
    const kind = refusal ?? failure?.kind ?? null;
    if (kind !== null) this.#refusals.increment(kind);
  }

  turnedAway({ kind, status }: TurnedAway): void {
    this.#refusals.increment(kind);
    if (status !== null) this.#answered("none", status, 0);
  }

  /** @param imdsVersion 0 where it is not known. */
  #answered(route: string, status: number, imdsVersion: 0 | 1 | 2): void {
    let index = this.#routes.get(route);
    if (index === undefined) {
      index = this.#routes.size;
      this.#routes.set(route, index);
    }
    // A status has three digits.
    const key = index * 4_096 + status * 4 + imdsVersion;
    if (this.#requests.increment(key)) return;
    const imds_version = imdsVersion === 0 ? "none" : String(imdsVersion);
    this.#requests.begin(key, { route, status: String(status), imds_version });
    this.#requests.increment(key);
  }

  unidentified(): void {
    this.#unidentified++;
  }

  /** The kernel was asked who owns a connection. */
  lookedUp(result: "owner" | "refused", tookMs: number): void {
    this.#lookupSeconds.observe(result, tookMs / 1_000);
  }

  /** The upstream was asked. @param status of its answer; null where none came. */
  upstream(status: number | null, tookMs: number): void {
    const name = status === null ? "failed" : `${Math.floor(status / 100)}xx`;
    this.#upstreamSeconds.begin(name, { status: name });
    this.#upstreamSeconds.observe(name, tookMs / 1_000);
  }

  acceptFailure(): void {
    this.#acceptFailures++;
  }

  unavailable(event: UnavailableEvent): void {
    const { outcome } = event;
    this.#unavailable.begin(outcome, { outcome });
    this.#unavailable.increment(outcome);
  }

  session(event: SessionEvent): void {
    if (event.type === "dropped") return;
    if (event.type === "postponed") {
      this.#postponed++;
      return;
    }
    const outcome = event.type;
    const role = this.#roleOf(event.request.roleArn);
    const key = `${outcome} ${role ?? ""}`.trimEnd();
    const labels: Readonly<Record<string, string>> = role === null ? { outcome } : { outcome, role };
    this.#attempts.begin(key, labels);
    this.#attempts.increment(key);
    this.#attemptSeconds.begin(key, labels);
    this.#attemptSeconds.observe(key, event.tookMs / 1_000);
  }

  /** All metrics as text. */
  text(): Promise<string> {
    this.#firewall = this.#readFirewall();
    this.#refresh();
    return this.#registry.metrics();
  }

  /** The value of the label for a role; null where roles are no labels. */
  #roleOf(roleArn: string): string | null {
    if (this.#roles === null) return null;
    if (this.#roles.has(roleArn)) return roleArn;
    if (this.#roles.size >= MAX_ROLES) return "other";
    this.#roles.add(roleArn);
    return roleArn;
  }

  /** The least life of the sessions of each role, in milliseconds. */
  #leastLife(): ReadonlyMap<string, number> {
    const found = new Map<string, number>();
    for (const [roleArn, ms] of this.#broker.leastLifeMs) {
      const role = this.#roleOf(roleArn) ?? "";
      found.set(role, Math.min(ms, found.get(role) ?? Number.POSITIVE_INFINITY));
    }
    return found;
  }
}
