import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { resolve } from "node:path";
import { categoryFilter } from "../../src/config/categories.ts";
import { createInstanceSecrets } from "../../src/demo/imds/secrets.ts";
import type { ImdsLogEntry } from "../../src/demo/imds/server.ts";
import { DEFAULT_FACTS } from "../../src/demo/imds/tree.ts";
import { parseRoute } from "../../src/imds/routes.ts";
import { fuzzRuns, fuzzSeed } from "../support/fuzz.ts";
import { type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { type FaultyImds, startFaultyImds } from "../support/stand-ins/imds.ts";
import { type Orders, type Report, run } from "./support/spelling-client.ts";
import {
  cleanedDenyList,
  type Filter,
  prefixAllowList,
  rawDenyList,
  startForwarder,
  twoExactPaths,
} from "./support/spelling-naive.ts";
import { CANARY, FAMILIES } from "./support/spelling-requests.ts";

/**
 * Nothing of an instance-role secret leaves through the proxy, whatever the request's spelling. IMDSPROXY_ATTACKS sets the
 * number of requests, IMDSPROXY_FUZZ_SEED which ones (see test/support/fuzz.ts).
 */
const ATTACKS = Number(process.env["IMDSPROXY_ATTACKS"] ?? fuzzRuns(200_000));
const REPOSITORY = resolve(import.meta.dir, "../..");

describe("the attacks are some: against forwarders as others have built them they succeed", () => {
  const secrets = createInstanceSecrets();
  let upstream: FaultyImds;
  beforeAll(() => {
    upstream = startFaultyImds({
      listen: [{ address: "127.0.0.1", port: 0 }],
      secrets,
      mode: { liberal: true },
    });
  });
  afterAll(() => upstream.stop());

  async function against(passes: Filter): Promise<Report> {
    const [endpoint] = upstream.endpoints();
    if (endpoint === undefined) throw new Error("the upstream listens nowhere");
    const forwarder = startForwarder(endpoint, passes);
    try {
      return await run({
        to: [forwarder.endpoint],
        roleName: DEFAULT_FACTS.roleName,
        seed: fuzzSeed,
        attacks: 3_000,
        workers: 8,
        secrets: [secrets.marker],
        honestBody: null,
      });
    } finally {
      forwarder.stop();
    }
  }

  const forwarders: [name: string, passes: Filter, leastLeaks: number, leastPathFamilies: number][] = [
    ["answers two exact paths and passes on the rest", twoExactPaths, 500, FAMILIES.path.length],
    ["refuses secret paths as they were sent", rawDenyList, 100, 8],
    ["decodes and normalises once, and refuses secret paths then", cleanedDenyList, 100, 8],
    ["passes on what begins like an allowed path", prefixAllowList, 30, 3],
  ];
  for (const [name, passes, leastLeaks, leastPathFamilies] of forwarders) {
    test(`one that ${name}`, async () => {
      const report = await against(passes);
      const counts = Object.entries(report.leakyFamilies);
      const leaks = counts.reduce((sum, [, count]) => sum + count, 0);
      const paths = FAMILIES.path.filter((path) =>
        counts.some(([family]) => family.split(", ").includes(path)),
      );
      expect(leaks).toBeGreaterThanOrEqual(leastLeaks);
      expect(paths.length).toBeGreaterThanOrEqual(leastPathFamilies);
    }, 600_000);
  }
});

/** A node whose metadata services serve the secrets on any reading, and what alice got of it. */
async function attack(count: number, config: object): Promise<{ proxied: ProxiedNode; report: Report }> {
  const proxied = await startProxiedNode(
    { show: { "/run/repository": REPOSITORY, "/run/bin/bun": process.execPath } },
    config,
  );
  const { node } = proxied;
  // Two hundred thousand connections to one port leave as many ports in TIME_WAIT, for a minute each: the node's kernel
  // is told to forget them, so that this attacker need not wait for a port.
  const forget = "echo 1024 >/proc/sys/net/ipv4/tcp_max_tw_buckets";
  expect((await node.exec({ user: "root", argv: ["sh", "-c", forget] })).exitCode).toBe(0);
  await node.agent?.set({ liberal: true });
  await node.imds.set({ liberal: true });
  await node.agent?.clearLog();
  await node.imds.clearLog();
  const orders: Orders = {
    to: [
      { address: "169.254.169.254", port: 80 },
      ...(node.ipv6 ? [{ address: "fd00:ec2::254", port: 80 }] : []),
    ],
    roleName: node.roleName,
    seed: fuzzSeed,
    attacks: count,
    workers: 12,
    secrets: [node.secrets.marker, node.roleName],
    honestBody: DEFAULT_FACTS.instanceId,
  };
  const client = await node.exec({
    user: "alice",
    argv: ["/run/bin/bun", "/run/repository/test/attack/support/spelling-client.ts"],
    stdin: JSON.stringify(orders),
    timeoutMs: 0,
  });
  if (client.exitCode !== 0) throw new Error(`the attacker ended with ${client.exitCode}: ${client.stderr}`);
  return { proxied, report: JSON.parse(client.stdout) as Report };
}

describeAsRoot("the same attacks on the proxy itself, told to give out user-data", () => {
  test("bring it back: what alice gets is looked at, and the metadata service serves her", async () => {
    const { proxied, report } = await attack(2_000, { imds: { allow: ["user-data"] } });
    await proxied.node.stop();
    expect(report.leaks.length).toBeGreaterThan(0);
    for (const { received } of report.leaks) expect(received).toContain("BOOTSTRAP_SECRET");
  }, 600_000);
});

describeAsRoot(`${ATTACKS} spellings by alice (seed ${fuzzSeed})`, () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  let report: Report;
  let upstreamLog: readonly ImdsLogEntry[];

  beforeAll(async () => {
    ({ proxied, report } = await attack(ATTACKS, {}));
    node = proxied.node;
    upstreamLog = (await node.agent?.log()) ?? [];
    console.log(JSON.stringify({ ...report, leaks: report.leaks.length }));
  }, 1_800_000);
  afterAll(() => node.stop());

  test("all were sent, and nearly all were answered or cut off", () => {
    expect(report.sent).toBe(ATTACKS);
    expect(report.unanswered).toBeLessThan(ATTACKS / 1_000);
    // Refused spellings, refused targets and hosts, what is not there, what is not done, and what anybody may have.
    for (const status of ["200", "400", "403", "404", "405"])
      expect(report.statuses[status]).toBeGreaterThan(100);
  });

  test("nothing of the instance role came back", () => {
    expect(report.leaks).toEqual([]);
  });

  test("no request got a 5xx", () => {
    expect(report.serverErrors).toEqual([]);
  });

  test("every honest request between them was served", () => {
    expect(report.honest).toBeGreaterThanOrEqual(ATTACKS / 20 - 12);
    expect(report.honestFailures).toEqual([]);
  });

  test("the upstream saw canonical paths and our own headers alone", () => {
    expect(upstreamLog.length).toBeGreaterThan(0);
    const categories = categoryFilter([], []);
    const own =
      /^(\/latest\/api\/token|\/latest\/meta-data\/iam\/security-credentials\/(MySageMakerClusterInstanceRole)?|\/latest\/meta-data|\/)$/;
    const names = new Set([
      "host",
      "user-agent",
      "accept",
      "connection",
      "x-aws-ec2-metadata-token",
      "x-aws-ec2-metadata-token-ttl-seconds",
      "content-length",
    ]);
    for (const { method, target, headers } of upstreamLog) {
      expect([method, method === "PUT" ? target : ""]).toEqual(
        method === "PUT" ? ["PUT", "/latest/api/token"] : ["GET", ""],
      );
      if (!own.test(target)) {
        const route = parseRoute(target, categories);
        expect([target, route.kind]).toEqual([target, "metadata"]);
        if (route.kind === "metadata") {
          const canonical = `/${route.version}${route.path === "" ? "" : `/${route.path}`}`;
          // A listing may be asked for in its form with a slash where the upstream redirects to that.
          expect([canonical, `${canonical}/`]).toContain(target);
        }
      }
      for (const [name, value] of headers) {
        expect(names).toContain(name.toLowerCase());
        if (/^content-length$/i.test(name)) expect(value).toBe("0");
      }
    }
    expect(JSON.stringify(upstreamLog)).not.toContain(CANARY);
    expect(JSON.stringify(upstreamLog).toLowerCase()).not.toContain("x-tag");
  });

  test("nothing of alice's reached EC2's own service", async () => {
    expect(await node.imds.log()).toEqual([]);
  });

  test("the proxy is the one that was started, and still serves alice and bob", async () => {
    const ask = (user: string) => node.exec({ user, argv: ["/run/bin/imdsproxy", "whoami", "--json"] });
    for (const user of ["alice", "bob"]) {
      const { stdout } = await ask(user);
      expect(JSON.parse(stdout)).toMatchObject({ user, roleName: "ImdsProxyTestRole" });
    }
    let ended = false;
    void proxied.proxy.done.then(() => {
      ended = true;
    });
    await Bun.sleep(0);
    expect(ended).toBe(false);
    expect(proxied.proxy.output()).not.toContain("internal");
  });
});
