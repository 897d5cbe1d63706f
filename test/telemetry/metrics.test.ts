import { describe, expect, test } from "bun:test";
import type { RequestEvent } from "../../src/imds/request-event.ts";
import { Metrics, type MetricsOptions, type MetricsSources } from "../../src/telemetry/metrics.ts";
import { version } from "../../src/version.ts";
import { aRequest } from "../sessions/support.ts";
import { ownerOf } from "../support/callers.ts";
import { NO_SESSIONS, SOURCES } from "./metrics-support.ts";

/** Metrics, and what a line of them says: `value("name", 'route="x"')`; null where there is no such line. */
function aRegistry(over: Partial<MetricsSources> = {}, options?: MetricsOptions) {
  const metrics = new Metrics({ ...SOURCES, ...over }, options);
  const value = async (name: string, labels = ""): Promise<number | null> => {
    const start = labels === "" ? `${name} ` : `${name}{${labels}} `;
    const line = (await metrics.text()).split("\n").find((one) => one.startsWith(start));
    return line === undefined ? null : Number(line.slice(start.length));
  };
  return { metrics, value };
}

const request = (over: Partial<RequestEvent> = {}): RequestEvent => ({
  subject: 2001,
  caller: ownerOf(2001),
  method: "GET",
  imdsVersion: 2,
  tookMs: 3,
  decided: null,
  accessKeyId: null,
  failure: null,
  route: "role-list",
  status: 200,
  refusal: null,
  ...over,
});
const session = { request: aRequest(), tookMs: 300 };

describe("Metrics", () => {
  test.each([
    ["imdsproxy_build_info", `version="${version}"`, 1],
    ["imdsproxy_connections", "", 7],
    ["imdsproxy_connected_users", "", 3],
    ["imdsproxy_sessions", "", 5],
    ["imdsproxy_firewall_repairs_total", "", 2],
    ["imdsproxy_firewall_healthy", "", 1],
    ["imdsproxy_firewall_last_check_seconds", "", 1_893_456_000],
    ["imdsproxy_config_current", "", 1],
    ["imdsproxy_config_last_reload_successful", "", 0],
    ["imdsproxy_config_loaded_seconds", "", 1_000.5],
    ["imdsproxy_config_reloads_total", 'result="success"', 3],
    ["imdsproxy_config_reloads_total", 'result="failure"', 1],
    ["imdsproxy_config_info", 'version="42",hash="ab12"', 1],
    ["imdsproxy_config_last_fetch_successful", "", 0],
    ["imdsproxy_config_fetched_seconds", "", 2_000.5],
    ["imdsproxy_session_requests", 'state="fresh"', 4],
    ["imdsproxy_session_requests", 'state="denied"', 2],
    ["imdsproxy_session_least_life_seconds", "", 60.5],
    ["imdsproxy_firewall_repaired_total", 'kind="iptables"', 3],
    ["imdsproxy_firewall_repaired_total", 'kind="limits"', 0],
    ["imdsproxy_limit_dropped_packets_total", 'limit="new_user"', 11],
    ["imdsproxy_limit_dropped_packets_total", 'limit="unredirected"', 0],
    ["imdsproxy_event_loop_lag_seconds", "", 0.012],
    ["imdsproxy_audit_records_total", 'destination="journal"', 8],
    ["imdsproxy_audit_records_total", 'destination="stderr"', 1],
    ["imdsproxy_audit_suppressed_total", "", 9],
    ["imdsproxy_log_lines_lost_total", "", 2],
    ["process_cpu_seconds_total", "", 2],
    ["process_resident_memory_bytes", "", 100_000_000],
    ["process_open_fds", "", 20],
    ["process_start_time_seconds", "", 1_700_000_000],
  ])("%s{%s} is %d, as its source says when it is asked", async (name, labels, expected) => {
    expect(await aRegistry().value(name, labels)).toBe(expected);
  });

  test("where the unit that repairs has said nothing, nothing is said for it", async () => {
    const { value } = aRegistry({ firewall: () => null });
    expect(await value("imdsproxy_firewall_healthy")).toBeNull();
    expect(await value("imdsproxy_firewall_last_check_seconds")).toBeNull();
    expect(await value("imdsproxy_firewall_repairs_total")).toBe(0);
  });

  test("where the limits cannot be asked, nothing is said for them", async () => {
    const { metrics } = aRegistry({ dropped: () => null });
    expect(await metrics.text()).not.toMatch(/^imdsproxy_limit_dropped_packets_total/m);
  });

  test("a node without a fleet's object says that its configuration is local, and nothing of polls", async () => {
    const { value } = aRegistry({ object: () => null });
    expect(await value("imdsproxy_config_info", 'version="local",hash=""')).toBe(1);
    expect(await value("imdsproxy_config_last_fetch_successful")).toBeNull();
    expect(await value("imdsproxy_config_fetched_seconds")).toBeNull();
  });

  test("a scrape reads the report on the firewall once, so that its three metrics are of the same moment", async () => {
    let reads = 0;
    const { metrics } = aRegistry({
      firewall: () => ({ repairs: ++reads, healthy: true, lastRepair: null, lastCheck: null }),
    });
    expect(await metrics.text()).toContain("imdsproxy_firewall_repairs_total 1\n");
    expect(reads).toBe(1);
    expect(await metrics.text()).toContain("imdsproxy_firewall_repairs_total 2\n");
    expect(reads).toBe(2);
  });

  test("another process's count is taken over, and not added up by asking", async () => {
    const { value } = aRegistry();
    for (let asked = 0; asked < 3; asked++) expect(await value("imdsproxy_firewall_repairs_total")).toBe(2);
  });

  const EVENTS: [name: string, happens: (metrics: Metrics) => void, counted: Record<string, number>][] = [
    [
      "an answered request",
      (metrics) => metrics.request(request()),
      {
        'imdsproxy_requests_total{route="role-list",status="200",imds_version="2"}': 1,
        'imdsproxy_request_duration_seconds_bucket{le="0.0025",route="role-list"}': 0,
        'imdsproxy_request_duration_seconds_bucket{le="0.005",route="role-list"}': 1,
        'imdsproxy_request_duration_seconds_bucket{le="+Inf",route="role-list"}': 1,
        'imdsproxy_request_duration_seconds_sum{route="role-list"}': 0.003,
        'imdsproxy_request_duration_seconds_count{route="role-list"}': 1,
      },
    ],
    [
      "a refused request",
      (metrics) => metrics.request(request({ status: 404, refusal: "rule", imdsVersion: 1 })),
      {
        'imdsproxy_requests_total{route="role-list",status="404",imds_version="1"}': 1,
        'imdsproxy_refusals_total{kind="rule"}': 1,
      },
    ],
    [
      "a session that STS denies",
      (metrics) => metrics.request(request({ failure: { kind: "denied", message: "no" } })),
      {
        'imdsproxy_requests_total{route="role-list",status="200",imds_version="2"}': 1,
        'imdsproxy_refusals_total{kind="denied"}': 1,
      },
    ],
    [
      "a look-up of whose a connection is",
      (metrics) => metrics.lookedUp("owner", 0.02),
      {
        'imdsproxy_identity_lookup_duration_seconds_bucket{le="0.00001",result="owner"}': 0,
        'imdsproxy_identity_lookup_duration_seconds_bucket{le="0.000025",result="owner"}': 1,
        'imdsproxy_identity_lookup_duration_seconds_count{result="owner"}': 1,
      },
    ],
    [
      "a request to the upstream",
      (metrics) => {
        metrics.upstream(404, 3);
        metrics.upstream(null, 2_000);
      },
      {
        'imdsproxy_upstream_request_duration_seconds_count{status="4xx"}': 1,
        'imdsproxy_upstream_request_duration_seconds_count{status="failed"}': 1,
        'imdsproxy_upstream_request_duration_seconds_sum{status="failed"}': 2,
      },
    ],
    [
      "a request that is turned away with an answer",
      (metrics) => metrics.turnedAway({ kind: "busy", caller: ownerOf(2001), status: 503 }),
      {
        'imdsproxy_requests_total{route="none",status="503",imds_version="none"}': 1,
        'imdsproxy_refusals_total{kind="busy"}': 1,
      },
    ],
    [
      "a connection that is turned away without one",
      (metrics) => metrics.turnedAway({ kind: "crowded", caller: ownerOf(2001), status: null }),
      { 'imdsproxy_refusals_total{kind="crowded"}': 1 },
    ],
    ["a caller whom nobody knows", (metrics) => metrics.unidentified(), { imdsproxy_unidentified_total: 1 }],
    ["an accept that failed", (metrics) => metrics.acceptFailure(), { imdsproxy_accept_failures_total: 1 }],
    [
      "a name that NSS cannot tell",
      (metrics) => metrics.unavailable({ outcome: "kept", uid: 2001, why: "sss (unavailable)" }),
      { 'imdsproxy_names_untold_total{outcome="kept"}': 1 },
    ],
    [
      "a session",
      (metrics) =>
        metrics.session({
          ...session,
          type: "obtained",
          reason: "asked",
          accessKeyId: "ASIA1",
          expiresAtMs: 0,
        } as Parameters<Metrics["session"]>[0]),
      {
        'imdsproxy_assume_role_total{outcome="obtained"}': 1,
        'imdsproxy_assume_role_seconds_bucket{le="0.2",outcome="obtained"}': 0,
        'imdsproxy_assume_role_seconds_bucket{le="0.5",outcome="obtained"}': 1,
        'imdsproxy_assume_role_seconds_sum{outcome="obtained"}': 0.3,
        'imdsproxy_assume_role_seconds_count{outcome="obtained"}': 1,
      },
    ],
    [
      "a call that has to wait",
      (metrics) =>
        metrics.session({ ...session, type: "postponed", owner: 2001, againInMs: 5 } as Parameters<
          Metrics["session"]
        >[0]),
      {
        imdsproxy_assume_role_postponed_total: 1,
        'imdsproxy_assume_role_seconds_count{outcome="obtained"}': 0,
      },
    ],
  ];
  for (const [name, happens, counted] of EVENTS) {
    test(`${name} counts ${Object.keys(counted).join(", ")}, and nothing else`, async () => {
      const { metrics } = aRegistry();
      const lines = async () =>
        new Map(
          (await metrics.text()).split("\n").map((line) => line.split(/ (?=\S+$)/)) as [string, string][],
        );
      const before = await lines();
      happens(metrics);
      const after = await lines();
      const changed = Object.fromEntries([...after].filter(([line, value]) => before.get(line) !== value));
      for (const [line, value] of Object.entries(counted))
        expect([line, after.get(line)]).toEqual([line, String(value)]);
      const histogram = Object.keys(changed).filter((line) => /_seconds_(?:bucket|sum|count)/.test(line));
      const unexpected = Object.keys(changed).filter(
        (line) => !(line in counted) && !histogram.includes(line),
      );
      expect(unexpected).toEqual([]);
    });
  }

  test("a session that is dropped was no call of STS", async () => {
    const { metrics, value } = aRegistry();
    metrics.session({ type: "dropped", request: aRequest(), reason: "ended" } as Parameters<
      Metrics["session"]
    >[0]);
    expect(await value("imdsproxy_assume_role_seconds_count", 'outcome="obtained"')).toBe(0);
  });

  test("no label has a value of a user's, a role's or a session's", async () => {
    const { metrics } = aRegistry();
    const marked = "marker-4711";
    metrics.request(request({ subject: marked, method: marked, why: marked, status: 404, refusal: "role" }));
    metrics.turnedAway({ kind: "malformed", caller: { kind: "container", address: marked }, status: 400 });
    metrics.unavailable({ outcome: "unknown", uid: 4711, why: marked });
    for (const type of ["obtained", "denied", "failed"]) {
      metrics.session({
        type,
        request: aRequest({ roleArn: marked, sessionName: marked }),
        tookMs: 1,
        code: marked,
        detail: marked,
        againInMs: 1,
        accessKeyId: marked,
        expiresAtMs: 0,
      } as unknown as Parameters<Metrics["session"]>[0]);
    }
    const text = await metrics.text();
    expect(text).not.toContain("4711");
    const labels = new Set([...text.matchAll(/[{,]([a-z_]+)="/g)].map(([, label]) => label));
    expect([...labels].sort()).toEqual([
      ...[
        "destination",
        "hash",
        "imds_version",
        "kind",
        "le",
        // One of six that the table of limits has.
        "limit",
        "outcome",
        "result",
        "route",
        "state",
        "status",
        "version",
      ],
    ]);
  });

  test("where the configuration says so, roles are labels, and there is an end to them", async () => {
    const { metrics, value } = aRegistry({}, { roles: true });
    const A = 'role="arn:aws:iam::842413447717:role/A"';
    expect(await value("imdsproxy_session_least_life_seconds", A)).toBe(1_800);
    const obtained = (roleArn: string) =>
      metrics.session({
        ...session,
        request: aRequest({ roleArn }),
        type: "obtained",
        reason: "asked",
        accessKeyId: "ASIA1",
        expiresAtMs: 0,
      });
    for (let role = 0; role < 1_000; role++) obtained(`arn:aws:iam::842413447717:role/${role}`);
    expect(
      await value(
        "imdsproxy_assume_role_total",
        'outcome="obtained",role="arn:aws:iam::842413447717:role/0"',
      ),
    ).toBe(1);
    // A and B, which the sessions have, are two of the 256.
    expect(await value("imdsproxy_assume_role_total", 'outcome="obtained",role="other"')).toBe(1_000 - 254);
  });

  test("without a session there is no least life", async () => {
    const { value } = aRegistry({ broker: () => NO_SESSIONS });
    expect(await value("imdsproxy_session_least_life_seconds")).toBeNull();
  });

  test("each has a help text, the project's name, and a counter its _total (prometheus.io, Metric and label naming)", async () => {
    const lines = (await aRegistry().metrics.text()).split("\n");
    const types = lines.filter((line) => line.startsWith("# TYPE ")).map((line) => line.split(" ").slice(2));
    expect(types.length).toBeGreaterThan(15);
    for (const [name = "", type] of types) {
      expect(
        lines.some(
          (line) => line.startsWith(`# HELP ${name} `) && line.length > `# HELP ${name} `.length + 10,
        ),
      ).toBe(true);
      // Those of a process have the names that all clients give them.
      expect(name).toMatch(/^(?:imdsproxy|process)_[a-z_]+$/);
      expect([name, name.endsWith("_total")]).toEqual([name, type === "counter"]);
    }
  });
});
