import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { ServerCounts, TurnedAway } from "../http/server.ts";
import type { UnavailableEvent } from "../identity/accounts.ts";
import type { RequestEvent } from "../imds/handler.ts";
import type { BrokerCounts, SessionEvent } from "../sessions/broker.ts";
import { version } from "../version.ts";
import type { FirewallHealth } from "./firewall-health.ts";

/** The content type of Prometheus' text format (prometheus.io, "Exposition formats"). */
export const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** The sources of the metrics that are read at each scrape. */
export interface MetricsSources {
  readonly server: () => ServerCounts;
  readonly broker: () => BrokerCounts;
  /** The last report of the watch over the firewall; null where there is none. */
  readonly firewall: () => FirewallHealth | null;
  /** Whether the configuration file is in effect. */
  readonly configuration: () => { readonly isCurrent: boolean; readonly lastReloadSuccessful: boolean };
}

/**
 * Metrics in Prometheus' text format. Every local user can read them. So no label names a user, a role or a session, and no
 * request can choose the value of a label.
 */
export class Metrics {
  readonly #registry = new Registry();
  /** Requests answered, by route and status: plain numbers, because to find a counter by its labels takes a microsecond. */
  readonly #requests = new Map<string, Map<number, number>>();
  readonly #unidentified: Counter;
  readonly #unavailable: Counter<"outcome">;
  readonly #acceptFailures: Counter;
  readonly #refusals: Counter<"kind">;
  readonly #attempts: Counter<"outcome">;
  readonly #postponed: Counter;
  readonly #attemptSeconds: Histogram;
  readonly #readFirewall: () => FirewallHealth | null;
  /** As it was when the scrape began: the source is a file, and three metrics are of it. */
  #firewall: FirewallHealth | null = null;

  constructor(sources: MetricsSources) {
    this.#readFirewall = sources.firewall;
    const firewall = () => this.#firewall;
    const registers = [this.#registry];
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
    new Gauge({
      name: "imdsproxy_build_info",
      help: "1, with the version that runs as a label",
      labelNames: ["version"],
      registers,
    }).set({ version }, 1);
    const requests = this.#requests;
    new Counter({
      name: "imdsproxy_requests_total",
      help: "Requests answered",
      labelNames: ["route", "status"],
      registers,
      collect() {
        this.reset();
        for (const [route, statuses] of requests) {
          for (const [status, count] of statuses) this.inc({ route, status: String(status) }, count);
        }
      },
    });
    this.#unidentified = new Counter({
      name: "imdsproxy_unidentified_total",
      help: "Connections whose caller could not be identified",
      registers,
    });
    this.#refusals = new Counter({
      name: "imdsproxy_refusals_total",
      help: "Requests and connections refused, by kind",
      labelNames: ["kind"],
      registers,
    });
    this.#acceptFailures = new Counter({
      name: "imdsproxy_accept_failures_total",
      help: "Times that accepting connections could not go on",
      registers,
    });
    this.#unavailable = new Counter({
      name: "imdsproxy_names_untold_total",
      help: "Look-ups of names that a service of NSS could not answer: what was told before was kept, or is unknown",
      labelNames: ["outcome"],
      registers,
    });
    this.#attempts = new Counter({
      name: "imdsproxy_assume_role_total",
      help: "AssumeRole requests",
      labelNames: ["outcome"],
      registers,
    });
    this.#postponed = new Counter({
      name: "imdsproxy_assume_role_postponed_total",
      help: "AssumeRole requests that were not made at once, because of a limit of them",
      registers,
    });
    this.#attemptSeconds = new Histogram({
      name: "imdsproxy_assume_role_seconds",
      help: "Seconds that an AssumeRole request took",
      buckets: [0.05, 0.1, 0.2, 0.5, 1, 2, 5],
      registers,
    });
    gauge("imdsproxy_connections", "Open connections", () => sources.server().connections);
    gauge("imdsproxy_connected_users", "Users with open connections", () => sources.server().users);
    gauge("imdsproxy_sessions", "Sessions in memory", () => sources.broker().sessions);
    new Counter({
      name: "imdsproxy_firewall_repairs_total",
      help: "Times the firewall rules were put right since boot",
      registers,
      collect() {
        // Another process counts; its number is taken over.
        this.reset();
        this.inc(firewall()?.repairs ?? 0);
      },
    });
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
    gauge("imdsproxy_config_current", "1 where the configuration's file on the disk is what runs", () =>
      Number(sources.configuration().isCurrent),
    );
    gauge("imdsproxy_config_last_reload_successful", "0 after a reload that was refused", () =>
      Number(sources.configuration().lastReloadSuccessful),
    );
  }

  request(event: RequestEvent): void {
    this.#count(event.route, event.status);
    const kind = event.refusal ?? event.failure?.kind ?? null;
    if (kind !== null) this.#refusals.inc({ kind });
  }

  turnedAway(event: TurnedAway): void {
    this.#refusals.inc({ kind: event.kind });
    if (event.status !== null) this.#count("none", event.status);
  }

  #count(route: RequestEvent["route"], status: number): void {
    let statuses = this.#requests.get(route);
    if (statuses === undefined) {
      statuses = new Map();
      this.#requests.set(route, statuses);
    }
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
  }

  unidentified(): void {
    this.#unidentified.inc();
  }

  acceptFailure(): void {
    this.#acceptFailures.inc();
  }

  unavailable(event: UnavailableEvent): void {
    this.#unavailable.inc({ outcome: event.outcome });
  }

  session(event: SessionEvent): void {
    if (event.type === "dropped") return;
    if (event.type === "postponed") {
      this.#postponed.inc();
      return;
    }
    this.#attempts.inc({ outcome: event.type });
    this.#attemptSeconds.observe(event.tookMs / 1000);
  }

  /** All metrics as text. */
  text(): Promise<string> {
    this.#firewall = this.#readFirewall();
    return this.#registry.metrics();
  }
}
