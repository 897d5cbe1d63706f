import { afterAll, beforeAll, expect, test } from "bun:test";
import { curl, mustExec } from "../support/node.ts";
import { dashboardQueries, rules, selectors } from "../support/prometheus.ts";
import { credentialsOf, eventually, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

// make test-prometheus. CI does not run it: a rate needs some seconds of scrapes.

const LIMIT_MS = 10 * 60_000;
const ALICE = { user: "alice" };
const ROOT = { user: "root" };
const API = "http://127.0.0.1:9090/api/v1";

/** Asks for credentials and metadata, in turn, with and without a token, until it is ended. */
const LOAD = `
import time, urllib.request
base = "http://169.254.169.254/latest/"
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
def ask(path, headers={}, method="GET"):
    try:
        return opener.open(urllib.request.Request(base + path, headers=headers, method=method), timeout=5).read().decode()
    except Exception:
        return ""
while True:
    token = ask("api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    for headers in ({}, {"X-aws-ec2-metadata-token": token}):
        role = ask("meta-data/iam/security-credentials/", headers)
        ask("meta-data/iam/security-credentials/" + role, headers)
        ask("meta-data/iam/security-credentials/Other", headers)
        ask("meta-data/placement/region", headers)
    time.sleep(0.05)
`;

/** Panels of the dashboard whose queries are pictured. */
const PICTURED = [
  "Requests by route",
  "Time of a request for credentials",
  "Refusals by kind",
  "Sessions by state",
];

const PROMETHEUS = {
  global: { scrape_interval: "1s", evaluation_interval: "1s" },
  rule_files: ["/run/prometheus/imdsproxy.rules.yml"],
  scrape_configs: [{ job_name: "imdsproxy", static_configs: [{ targets: ["127.0.0.1:9254"] }] }],
};

describeAsRoot("a Prometheus of Debian's scrapes a proxy under load:", () => {
  let proxied: ProxiedNode;
  let ended: Promise<unknown>[] = [];

  /** The values of a query now. */
  async function query(expr: string): Promise<number[]> {
    const { status, body } = await curl(proxied.node, ROOT, `${API}/query`, [
      "--data-urlencode",
      `query=${expr}`,
    ]);
    const answer = JSON.parse(body) as {
      status: string;
      error?: string;
      data: { result: { value: [number, string] }[] };
    };
    if (status !== 200) throw new Error(`${expr}: ${answer.error}`);
    return answer.data.result.map(({ value: [, text] }) => Number(text));
  }
  const hasData = async (expr: string) => (await query(expr)).some((value) => Number.isFinite(value));

  beforeAll(async () => {
    proxied = await startProxiedNode(
      {},
      { metrics: { listen: "127.0.0.1:9254", roles: true }, imds: { tokens: "optional" } },
    );
    const { node } = proxied;
    // The watch does not run on this node; its report does.
    const report = {
      repairs: 1,
      lastRepair: null,
      lastCheck: new Date().toISOString(),
      healthy: true,
      repairsByKind: { iptables: 1 },
    };
    node.write("/run/imdsproxy/firewall.json", JSON.stringify(report));
    node.write(
      "/run/prometheus/imdsproxy.rules.yml",
      await Bun.file("docs/prometheus/imdsproxy.rules.yml").text(),
    );
    node.write("/run/prometheus/prometheus.yml", JSON.stringify(PROMETHEUS));
    // A denial and a passing failure of STS.
    await node.sts.set({ fault: { kind: "error", status: 403, code: "AccessDenied" } });
    await credentialsOf(node, { uid: 5_001 });
    await node.sts.set({ fault: { kind: "drop" } });
    await credentialsOf(node, { uid: 5_002 });
    await node.sts.set({ fault: { kind: "none" } });
    ended = [
      node.spawn({ ...ALICE, argv: ["/usr/bin/python3", "-c", LOAD], timeoutMs: LIMIT_MS }),
      node.spawn({
        ...ROOT,
        argv: [
          "/usr/bin/prometheus",
          "--config.file=/run/prometheus/prometheus.yml",
          "--storage.tsdb.path=/run/prometheus/data",
          "--web.listen-address=127.0.0.1:9090",
        ],
        timeoutMs: LIMIT_MS,
      }),
    ].map(({ done }) => done);
    await eventually("it scrapes", async () => {
      const { status, body } = await curl(node, ROOT, `${API}/query?query=up`);
      return status === 200 && body.includes('"1"]');
    });
  }, LIMIT_MS);
  afterAll(async () => {
    await proxied?.node.stop();
    await Promise.allSettled(ended);
  });

  test(
    "every query of the dashboard returns data",
    async () => {
      const queries = dashboardQueries();
      expect(queries.length).toBeGreaterThan(20);
      // What it has seen before is counted from here on: new sessions, while it scrapes.
      for (let uid = 5_003; uid < 5_006; uid++) await credentialsOf(proxied.node, { uid });
      for (const { title, expr } of queries) {
        const filled = expr.replaceAll("$__rate_interval", "2m").replaceAll("$instance", ".*");
        await eventually(`${title}: ${filled}`, () => hasData(filled), 120_000);
      }
    },
    LIMIT_MS,
  );

  test(
    "every rule is one that it takes, what is recorded has data, and so has each part of each alert",
    async () => {
      const { body } = await curl(proxied.node, ROOT, `${API}/rules`);
      const { groups } = (
        JSON.parse(body) as { data: { groups: { rules: { health: string; lastError?: string }[] }[] } }
      ).data;
      const loaded = groups.flatMap((group) => group.rules);
      expect(loaded).toHaveLength(rules().length);
      expect(loaded.filter(({ health }) => health === "err")).toEqual([]);
      for (const { record, expr } of rules()) {
        if (record !== undefined) await eventually(record, () => hasData(record), 120_000);
        for (const selector of selectors(expr)) await eventually(selector, () => hasData(selector), 120_000);
      }
    },
    LIMIT_MS,
  );

  /** Where a picture is to be written (`make prometheus-picture`); it needs chromium. */
  const picture = process.env["IMDSPROXY_PICTURE"];
  test.skipIf(picture === undefined)(
    "a picture of the dashboard's queries, on Prometheus's own page, in a headless browser",
    async () => {
      const panels = dashboardQueries().filter(({ title }) => PICTURED.includes(title));
      expect(new Set(panels.map(({ title }) => title)).size).toBe(PICTURED.length);
      // Long enough that there is something to see.
      await Bun.sleep(90_000);
      const parameters = panels.flatMap(({ expr }, at): [string, string][] => [
        [`g${at}.expr`, expr.replaceAll("$__rate_interval", "30s").replaceAll("$instance", ".*")],
        [`g${at}.tab`, "0"],
        [`g${at}.range_input`, "5m"],
      ]);
      await mustExec(
        proxied.node,
        ROOT,
        [
          ...["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"],
          ...["--window-size=1100,3500", "--virtual-time-budget=60000", "--screenshot=/run/picture.png"],
          `http://127.0.0.1:9090/graph?${new URLSearchParams(parameters)}`,
        ],
        { timeoutMs: LIMIT_MS },
      );
      await Bun.write(picture ?? "", Bun.file(proxied.node.path("/run/picture.png")));
      expect(Bun.file(picture ?? "").size).toBeGreaterThan(20_000);
    },
    LIMIT_MS,
  );

  test("no alert fires but those about the denial and the failure of STS", async () => {
    const firing = await mustExec(proxied.node, ROOT, ["curl", "-sf", `${API}/alerts`]);
    const names = (
      JSON.parse(firing) as { data: { alerts: { labels: { alertname: string } }[] } }
    ).data.alerts.map(({ labels }) => labels.alertname);
    const expected = [
      "ImdsproxyRoleDenied",
      "ImdsproxyStsFails",
      "ImdsproxySlow",
      "ImdsproxyFirewallNotWatched",
    ];
    expect(names.filter((name) => !expected.includes(name))).toEqual([]);
  });
});
