import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { version } from "../cli/version.ts";
import { categoryFilter } from "../config/categories.ts";
import { type ConfigOverrides, DEFAULT_CONFIG_PATH, loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import { detectUpstream } from "../firewall/detect.ts";
import { Accounts } from "../identity/accounts.ts";
import { type BridgeAddress, bridgesOfNode, isBehindBridge } from "../identity/bridges.ts";
import { Cgroups } from "../identity/cgroup.ts";
import { cgroupMount, cgroupTree } from "../identity/cgroup-tree.ts";
import { getentDatabase } from "../identity/getent.ts";
import { SocketLookup } from "../identity/lookup.ts";
import { NETLINK_NETFILTER } from "../identity/netlink/conntrack.ts";
import { NETLINK_SOCK_DIAG } from "../identity/netlink/inet-diag.ts";
import { IdentityResolver } from "../identity/resolver.ts";
import type { Endpoint } from "../identity/types.ts";
import { Handler, type Policy, type RequestEvent } from "../imds/handler.ts";
import { MetadataCache } from "../imds/metadata.ts";
import { Server } from "../imds/server.ts";
import { knownAuthorities } from "../imds/target.ts";
import { tokenKey } from "../imds/token-key.ts";
import { TokenMint } from "../imds/tokens.ts";
import { Upstream } from "../imds/upstream.ts";
import { systemClock } from "../platform/clock.ts";
import { forbidDumps, NetlinkSocket, notifySystemd, raiseFileLimit } from "../platform/libc.ts";
import { compileRules } from "../rules/decide.ts";
import { SessionBroker, type SessionEvent } from "../sessions/broker.ts";
import { createSts } from "../sessions/sts.ts";
import { createLog, type Log, Seldom } from "../telemetry/log.ts";
import { Metrics } from "../telemetry/metrics.ts";
import { requireClosed, requireIdentity, requireInitialUserNamespace } from "./self-check.ts";
import { watchStartRole } from "./start-role.ts";
import { TokenPolicy } from "./token-policy.ts";

/** Where the unit that repairs the firewall says how things stand. */
const FIREWALL_STATE = "/run/imdsproxy/firewall.json";
const DRAIN_MS = 5_000;
const SELDOM_MS = 10_000;

/**
 * Runs the proxy until SIGTERM or SIGINT, then lets what is under way end.
 *
 * @throws ImdsProxyError where it cannot start; nothing listens then.
 */
export async function serve(options: {
  configPath: string | undefined;
  overrides: ConfigOverrides;
  /** See ServerOptions.sharePort. */
  sharePort: boolean;
}): Promise<void> {
  const load = () => loadConfig({ path: options.configPath, overrides: options.overrides });
  const config = load();
  const log = createLog(config.log);
  forbidDumps();
  const fileLimit = raiseFileLimit();
  requireInitialUserNamespace();
  const configPath = options.configPath ?? DEFAULT_CONFIG_PATH;
  if (await Bun.file(configPath).exists()) requireClosed(configPath);

  const lookup = new SocketLookup({
    diag: new NetlinkSocket(NETLINK_SOCK_DIAG, "sock_diag"),
    conntrack: new NetlinkSocket(NETLINK_NETFILTER, "connection tracking"),
  });
  await requireIdentity(lookup);
  const tokens = new TokenMint(tokenKey(config.stateDirectory));
  const { upstream: endpoint, reason } = await upstreamOf(config);
  const upstream = new Upstream({ endpoint, clock: systemClock });
  const metadata = new MetadataCache({ source: upstream, clock: systemClock });

  const events = eventSinks(log);
  const sts = createSts({
    region: config.region === "auto" ? () => regionOf(metadata) : config.region,
    endpoint: config.sts.endpoint,
    metadata: upstream,
  });
  const broker = new SessionBroker({ sts, clock: systemClock, random: Math.random, onEvent: events.session });
  const tokenPolicy = new TokenPolicy({ setting: config.imds.tokens, upstream, clock: systemClock });
  const listenOn = endpoints(config);

  let policy = policyOf(config, [...listenOn, endpoint]);
  let identities = resolverOf(policy);
  const handler = new Handler({
    clock: systemClock,
    tokens,
    metadata,
    broker,
    policy: () => policy,
    tokensRequired: () => tokenPolicy.required,
    identify: (owner) => identities.resolve(owner),
    onRequest: events.request,
  });
  const server = new Server({
    handler,
    lookup,
    monotonicMs: () => performance.now(),
    fileLimit,
    sharePort: options.sharePort,
    isContainer: containerTest(config),
    onUnidentified: events.unidentified,
  });
  const metrics = new Metrics({
    server: () => server.counts(),
    broker: () => broker.counts(),
    firewall: firewallState,
  });
  events.attach(metrics);
  for (const one of listenOn) server.listen(one);
  const metricsServer = config.metrics === null ? null : metrics.serve(config.metrics.listen);
  if (config.listen.port > 1023) {
    log.warn(
      "the port is above 1023: while the proxy is away, any user can take it and answer in its place",
      {
        listen: endpointText(config.listen),
        remedy: "choose a listen port below 1024, such as 127.0.0.1:988",
      },
    );
  }
  tokenPolicy.start();
  const stopStartRole = watchStartRole({ policy: () => policy, sts, metadata, clock: systemClock, log });

  const reload = (): void => {
    let fresh: Config;
    try {
      fresh = load();
      const next = policyOf(fresh, [...listenOn, endpoint]);
      identities = resolverOf(next);
      policy = next;
    } catch (error) {
      log.error("the configuration was not loaded again: the one before stays", {
        problem: error instanceof ImdsProxyError ? error.problem : "internal error",
      });
      return;
    }
    const needRestart = (
      ["listen", "upstream", "region", "sts", "metrics", "stateDirectory", "imds", "log"] as const
    ).filter(
      (key) =>
        JSON.stringify(key === "imds" ? fresh.imds.tokens : fresh[key]) !==
        JSON.stringify(key === "imds" ? config.imds.tokens : config[key]),
    );
    log.info("the configuration was loaded again", { rules: fresh.rules.length });
    if (needRestart.length > 0)
      log.warn("these keys take effect at the next start", { keys: needRestart.join(", ") });
  };
  process.on("SIGHUP", reload);

  const stopped = Promise.withResolvers<string>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => stopped.resolve(signal));
  const watchdog = startWatchdog();
  log.info("ready", {
    version,
    listen: listenOn.map(endpointText).join(" "),
    upstream: upstream.url,
    upstreamBecause: reason,
    role: config.role ?? "none: whom no rule names is refused",
    rules: config.rules.length,
  });
  notifySystemd("READY=1");

  const signal = await stopped.promise;
  notifySystemd("STOPPING=1");
  log.info("stopping", { signal });
  stopStartRole();
  tokenPolicy.stop();
  await server.drain(DRAIN_MS);
  metricsServer?.stop();
  broker.stop();
  sts.close();
  upstream.close();
  clearInterval(watchdog);
  log.info("stopped");
}

async function upstreamOf(config: Config): Promise<{ upstream: Endpoint; reason: string }> {
  if (config.upstream !== "auto") return { upstream: config.upstream, reason: "the configuration says so" };
  return detectUpstream();
}

/** Bridges come and go with containers; how long one look at them is good, in milliseconds. */
const BRIDGES_MS = 2_000;

function containerTest(config: Config): (address: Uint8Array) => boolean {
  if (config.containers !== "proxy") return () => false;
  let bridges: BridgeAddress[] = [];
  let seenMs = Number.NEGATIVE_INFINITY;
  return (address) => {
    const now = performance.now();
    if (now - seenMs > BRIDGES_MS) {
      bridges = bridgesOfNode();
      seenMs = now;
    }
    return isBehindBridge(address, bridges);
  };
}

/**
 * The configured endpoint, and the IPv6 loopback beside an IPv4 one: there the IPv6 metadata address is redirected to.
 * Where containers are served, the port on every address, for theirs end at the address of their bridge; the firewall
 * lets in there only what it redirected.
 */
function endpoints(config: Config): Endpoint[] {
  const { port } = config.listen;
  if (config.containers === "proxy") {
    return [{ address: "0.0.0.0", port }, ...(hasIPv6() ? [{ address: "::", port }] : [])];
  }
  const second =
    config.listen.address.startsWith("127.") && hasIPv6()
      ? [{ address: "::1", port: config.listen.port }]
      : [];
  return [config.listen, ...second];
}

const hasIPv6 = (): boolean =>
  Object.values(networkInterfaces()).some((addresses) => addresses?.some(({ address }) => address === "::1"));

function policyOf(config: Config, own: readonly Endpoint[]): Policy {
  return {
    rules: compileRules(config),
    categories: categoryFilter(config.imds.allow, config.imds.deny),
    authorities: knownAuthorities(own),
  };
}

const accounts = () => new Accounts({ database: getentDatabase, clock: systemClock });

function resolverOf(policy: Policy): IdentityResolver {
  if (!policy.rules.needs.cgroup) return new IdentityResolver({ accounts: accounts(), cgroups: null });
  const mount = cgroupMount();
  if (mount === null) {
    throw new ImdsProxyError(
      "missing",
      "the rules ask for cgroups or Slurm jobs, and cgroup v2 is not mounted",
      "boot with systemd.unified_cgroup_hierarchy=1, or take cgroup, slurmJob and {slurmJobId} out of the rules",
    );
  }
  return new IdentityResolver({ accounts: accounts(), cgroups: new Cgroups(cgroupTree(mount)) });
}

async function regionOf(metadata: MetadataCache): Promise<string> {
  const found = await metadata.read("latest", "meta-data/placement/region", -1);
  if (found.kind !== "found" || found.body.trim() === "") {
    throw new ImdsProxyError(
      "upstream",
      "the upstream does not tell the node's region",
      "set region in the configuration",
    );
  }
  return found.body.trim();
}

const endpointText = ({ address, port }: Endpoint): string =>
  `${address.includes(":") ? `[${address}]` : address}:${port}`;

function firewallState(): { repairs: number; healthy: boolean; lastCheck: number } | null {
  try {
    const { repairs, healthy, lastCheck } = JSON.parse(readFileSync(FIREWALL_STATE, "utf8")) as Record<
      string,
      unknown
    >;
    const seconds = typeof lastCheck === "number" ? lastCheck : Date.parse(String(lastCheck)) / 1000;
    return { repairs: Number(repairs), healthy: healthy === true, lastCheck: seconds };
  } catch {
    return null;
  }
}

/** Tells systemd that the event loop still turns, three times in the time that WatchdogSec= gives. */
function startWatchdog(): ReturnType<typeof setInterval> | undefined {
  const limitMicroseconds = Number(process.env["WATCHDOG_USEC"] ?? "0");
  if (!(limitMicroseconds > 0)) return undefined;
  return setInterval(() => notifySystemd("WATCHDOG=1"), limitMicroseconds / 3_000);
}

/** Where events go: the log, seldom where users cause them, and the metrics once they are there. */
function eventSinks(log: Log) {
  const seldom = new Seldom({ everyMs: SELDOM_MS, now: () => performance.now() });
  let metrics: Metrics | null = null;
  return {
    attach(to: Metrics): void {
      metrics = to;
    },
    request(event: RequestEvent): void {
      metrics?.request(event);
      log.debug("request", { ...event });
      if (event.why === undefined || event.status === 401) return;
      seldom.about(`${event.subject} ${event.status}`, (count) =>
        log[event.status === 503 ? "warn" : "info"]("refused", {
          subject: event.subject,
          status: event.status,
          why: event.why,
          count,
        }),
      );
    },
    unidentified(why: string): void {
      metrics?.unidentified();
      seldom.about(`unidentified ${why}`, (count) =>
        log.warn("a caller could not be identified", { why, count }),
      );
    },
    session(event: SessionEvent): void {
      metrics?.session(event);
      const { roleArn: role, sessionName } = event.request;
      if (event.type === "obtained") {
        const { reason, accessKeyId } = event;
        log.info("session", {
          role,
          sessionName,
          reason,
          accessKeyId,
          expires: new Date(event.expiresAtMs).toISOString(),
        });
      } else if (event.type === "dropped") {
        log.debug("session dropped", { role, sessionName, reason: event.reason });
      } else {
        seldom.about(`${event.type} ${role} ${event.code}`, (count) =>
          log.warn(event.type === "denied" ? "AssumeRole was denied" : "AssumeRole failed for now", {
            role,
            sessionName,
            code: event.code,
            detail: event.detail,
            retryInMs: event.againInMs,
            count,
          }),
        );
      }
    },
  };
}
