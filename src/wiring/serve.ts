import { existsSync } from "node:fs";
import { DEFAULT_CONFIG_PATH, type LoadedConfig, loadWithObject } from "../config/load.ts";
import type { ConfigOverrides } from "../config/overrides.ts";
import { droppedPackets } from "../firewall/limits/own-table.ts";
import { exemptUids } from "../firewall/spec.ts";
import { limitsFor, Server } from "../http/server.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import { subordinateFile } from "../identity/name-database.ts";
import type { IdentityResolver } from "../identity/resolver.ts";
import { Shares } from "../identity/shares.ts";
import { Handler, SERVER_NAME } from "../imds/handler.ts";
import { RecentCallers } from "../imds/recent-callers.ts";
import { TokenMint } from "../imds/tokens.ts";
import { monotonicMs, sleep, systemClock } from "../platform/clock.ts";
import { compileAsUsual } from "../platform/compilation.ts";
import { JournalSocket, standardErrorIsJournal } from "../platform/journal.ts";
import { keepBacklogs } from "../platform/keep-backlogs.ts";
import { LagMeter } from "../platform/lag.ts";
import { forbidDumps, raiseFileLimit } from "../platform/libc.ts";
import { lockProgram } from "../platform/memory-lock.ts";
import { processUsage } from "../platform/process-usage.ts";
import type { SocketStore } from "../platform/socket-store.ts";
import { notifySystemd, systemdNotified } from "../platform/systemd-notify.ts";
import { CallAllowance } from "../sessions/allowance.ts";
import { SessionBroker } from "../sessions/broker.ts";
import { createSts, stsEndpoint } from "../sessions/sts.ts";
import { Audit } from "../telemetry/audit.ts";
import { readFirewallHealth } from "../telemetry/firewall-health.ts";
import { Health } from "../telemetry/health.ts";
import { createLog } from "../telemetry/log.ts";
import { Metrics } from "../telemetry/metrics.ts";
import { NamesHealth } from "../telemetry/names-health.ts";
import { ROOT_SOCKET } from "../telemetry/status-document.ts";
import { MetadataCache } from "../upstream/cache.ts";
import { upstreamGuard } from "../upstream/guard.ts";
import { followAgent, upstreamOf } from "../upstream/locator.ts";
import { fixedRegion, nodeRegion } from "../upstream/region.ts";
import { Upstream } from "../upstream/upstream.ts";
import { version } from "../version.ts";
import { makeAnew } from "./anew.ts";
import { readCallers } from "./callers-file.ts";
import { eventSinks } from "./events.ts";
import { FleetObject } from "./fleet-object.ts";
import { GivenSessions } from "./given-sessions.ts";
import { clockFinding, firewallFinding, upstreamFinding } from "./health-checks.ts";
import { cgroupTest, systemLookup, systemNames, wholeIdentities } from "./identities.ts";
import { type KeptCallers, keepCallers } from "./keep-callers.ts";
import { containerTest, endpoints } from "./listening.ts";
import { LoadedConfiguration } from "./loaded-configuration.ts";
import { metricsServerOf } from "./metrics-server.ts";
import { OptionalListener } from "./optional-listener.ts";
import { keyOf } from "./passing-key.ts";
import { policyOf } from "./policy.ts";
import { warnOfPort } from "./port-log.ts";
import type { ProbeSources } from "./probes.ts";
import { Reloader } from "./reload.ts";
import { fileState, ReplacedFile } from "./replaced-file.ts";
import {
  requireClosed,
  requireIdentity,
  requireInitialUserNamespace,
  requireSafeEnvironment,
} from "./self-check.ts";
import { ServedEndpoints } from "./served-endpoints.ts";
import type { Signals } from "./signals.ts";
import { watchStartRole } from "./start-role.ts";
import { Status } from "./status.ts";
import { servesStatus, startStatus } from "./status-of-unit.ts";
import { TokenPolicy } from "./token-policy.ts";
import { feedWatchdog } from "./watchdog.ts";

const DRAIN_MS = 5_000;
/** Milliseconds that the start waits for the upstream's answer to whether it requires tokens. */
const POLICY_MS = 1_000;
/**
 * Milliseconds from the start to what takes the event loop for itself a while, the AWS SDK above all: callers who wait already get their
 * answers first. Who needs the SDK before then has it loaded.
 */
const SETTLE_MS = 100;
/** Callers who asked for credentials within this time get a session after a restart: a session's life, in milliseconds. */
const RECENT_MS = 3_600_000;
/** The share of the node's STS calls that is left for callers who ask, while sessions are made after a restart. */
const LEFT_FOR_ASKERS = 0.5;

/**
 * Runs the proxy until SIGTERM or SIGINT, and then until the requests under way have ended.
 *
 * @throws ImdsProxyError where it cannot start; nothing listens then.
 */
export async function serve(options: {
  configPath: string | undefined;
  overrides: ConfigOverrides;
  /** See ServerOptions.sharePort. */
  sharePort: boolean;
  /** See ServerOptions.store. */
  store: SocketStore;
  /** The copy of the fleet's object; default the node's. */
  objectPath?: string | undefined;
  /** Made before this file is loaded. */
  signals: Signals;
}): Promise<void> {
  const configPath = options.configPath ?? DEFAULT_CONFIG_PATH;
  // Checked at each load, because a file may have become writable for others since the start.
  const closed = (loaded: LoadedConfig): LoadedConfig => {
    if (loaded.object !== null && loaded.object.kind !== "missing") requireClosed(loaded.object.path);
    return loaded;
  };
  const load = (): LoadedConfig => {
    if (existsSync(configPath)) requireClosed(configPath);
    const { configPath: path, overrides, objectPath } = options;
    return closed(loadWithObject({ path, overrides, objectPath }));
  };
  const atStart = fileState.lookNow(configPath);
  const loadedConfiguration = new LoadedConfiguration({ path: configPath });
  const loaded = load();
  const { config } = loaded;
  const fleetObject = new FleetObject(loaded, { now: () => systemClock.now() });
  const log = createLog(config.log);
  forbidDumps();
  const fileLimit = raiseFileLimit();
  requireInitialUserNamespace();
  requireSafeEnvironment();

  const lookup = systemLookup();
  await requireIdentity(lookup);
  const key = keyOf(config.stateDirectory, log);
  const tokens = new TokenMint(key.bytes);
  const { upstream: endpoint, reason } = await upstreamOf(config);
  let upstreamBecause = reason;
  const { uids: exempt } = await exemptUids(config.exempt);
  const guard = upstreamGuard({
    lookup,
    trusted: new Set(exempt),
    log,
    monotonicMs,
  });
  let whole: IdentityResolver | null = null;
  const journal = standardErrorIsJournal() ? new JournalSocket() : null;
  const audit = new Audit({
    log,
    journal: journal === null ? null : (entry) => journal.send(entry),
    identify: (owner) => whole?.resolve(owner) ?? Promise.reject(new Error("the names are not there yet")),
    clock: systemClock,
    monotonicMs,
  });
  const events = eventSinks(log, audit);
  const upstream = new Upstream({ endpoint, clock: systemClock, guard, onRequest: events.upstream });
  const metadata = new MetadataCache({ source: upstream, clock: systemClock });
  const status = new Status({ now: () => systemClock.now() });
  const namesHealth = new NamesHealth({ now: monotonicMs });
  const nodesRegion = nodeRegion({ metadata, log });
  const region = config.region === "auto" ? nodesRegion : fixedRegion(config.region, nodesRegion);
  const sts = createSts({
    region: region.find,
    endpoint: config.sts.endpoint,
    metadata: upstream,
  });
  /** The URL that was found last: a message about an error is written without waiting for the region. */
  let lastStsUrl: string | null = config.sts.endpoint;
  const stsUrl = async () => {
    const url = config.sts.endpoint ?? (await stsEndpoint(await region.find()));
    lastStsUrl = url;
    return url;
  };
  const optional: OptionalListener[] = [];
  let listening: ServedEndpoints | null = null;
  let kept: KeptCallers | null = null;
  const health = new Health({
    now: () => systemClock.now(),
    stsEndpoint: stsUrl,
    checks: {
      upstream: async () => upstreamFinding(upstream),
      configuration: () => loadedConfiguration.finding(),
      object: () => fleetObject.finding(),
      firewall: () => firewallFinding(readFirewallHealth()),
      directory: () => namesHealth.finding(),
      tokenKey: () => key.finding,
      callers: () => kept?.finding() ?? null,
      clock: () => clockFinding(sts.clockOffsetMs()),
      listeners: () =>
        [...(listening === null ? [] : [listening]), ...optional]
          .map((one) => one.finding())
          .find((finding) => finding !== null) ?? null,
    },
  });
  const broker = new SessionBroker({
    sts,
    clock: systemClock,
    monotonicMs,
    random: Math.random,
    onEvent(event) {
      events.session(event);
      health.session(event);
      status.session(event, () => lastStsUrl);
    },
    allowance: new CallAllowance({
      user: config.limits.assumeRolePerUser,
      node: config.limits.assumeRolePerNode,
    }),
  });
  const tokenPolicy = new TokenPolicy({ setting: config.imds.tokens, upstream, clock: systemClock });

  const names = systemNames((event) => {
    events.names(event);
    namesHealth.unavailable(event);
    status.names(event);
  });
  whole = wholeIdentities(names.accounts);
  // Also of IPv6, which the node may get later.
  let own: readonly Endpoint[] = endpoints(config, true);
  let policy = policyOf(config, own, names.accounts);
  /** The number of rules and the default role of the configuration that is in effect. */
  let ruled = { rules: config.rules.length, defaultRole: config.role };
  const lag = new LagMeter({ clock: systemClock, monotonicMs });
  lag.start();
  const recent = new RecentCallers();
  const given = new GivenSessions({ broker, clock: systemClock, hasCgroup: cgroupTest() });
  const handler = new Handler({
    clock: systemClock,
    monotonicMs,
    tokens,
    metadata,
    broker,
    policy: () => policy,
    region: region.told,
    tokensRequired: () => tokenPolicy.required,
    onRequest(event) {
      given.note(event);
      events.request(event);
      status.request(event);
    },
    health: {
      document: async () => ({ version, problems: await health.problems() }),
      ownFailure: (request) => health.ownFailure(request),
    },
    lagMs: () => lag.lagMs,
    onAsked: (owner, user, nowMs) => recent.note(owner, user, nowMs),
  });
  const shares = new Shares({ read: subordinateFile(), monotonicMs });
  const shareOfUid = (uid: number) => shares.of(uid);
  const server = new Server({
    handler,
    serverName: SERVER_NAME,
    lookup: {
      identify(accepted) {
        const startedMs = monotonicMs();
        const found = lookup.identify(accepted);
        events.lookedUp(found.kind, monotonicMs() - startedMs);
        return found;
      },
    },
    monotonicMs,
    limits: limitsFor(fileLimit),
    sharePort: options.sharePort,
    store: options.store,
    shareOfUid,
    isContainer: containerTest(config),
    onUnidentified(why) {
      events.unidentified(why);
      status.unidentified(why);
    },
    onAcceptFailure(code) {
      events.acceptFailure(code);
      status.acceptFailure(code);
    },
    onTurnedAway: events.turnedAway,
  });
  const metrics = new Metrics(
    {
      server: () => server.counts(),
      broker: () => broker.counts(),
      firewall: readFirewallHealth,
      dropped: droppedPackets,
      configuration: () => loadedConfiguration,
      object: () => fleetObject.counts(),
      lagMs: () => lag.lagMs,
      audit: () => audit.counts(),
      lostLines: () => log.lostLines(),
      process: processUsage,
    },
    { roles: config.metrics?.roles === true },
  );
  events.attach(metrics);
  // Until the upstream has said whether it requires tokens, requests without one get 503: so the first caller waits here.
  await Promise.race([tokenPolicy.start(), sleep(POLICY_MS)]);
  // From here on a signal ends the proxy in order.
  const stopped = options.signals.untilStopped();
  const served = new ServedEndpoints(config, {
    listen: (endpoint) => server.listen(endpoint),
    // Whether containers are served is decided at the start.
    endpointsOf: ({ listen }) => endpoints({ listen, containers: config.containers }),
    log,
    clock: systemClock,
  });
  listening = served;
  const alsoListen = (what: string, remedy: string | null, listen: () => void) =>
    optional.push(new OptionalListener({ what, remedy, listen, log, clock: systemClock }));
  const probes: ProbeSources = {
    accepting: () => server.accepting,
    upstreamAnswers: async () => (await upstreamFinding(upstream)) === null,
    tokensRequired: () => tokenPolicy.required,
    firewall: readFirewallHealth,
    broker: () => broker.counts(),
    object: () => (fleetObject.running.object === null ? null : fleetObject.probe()),
  };
  const metricsServer =
    config.metrics === null ? null : metricsServerOf({ metrics, probes, lookup, monotonicMs, shareOfUid });
  if (config.metrics !== null) {
    const { listen } = config.metrics;
    const remedy = `see who has it: ss -ltnp 'sport = :${listen.port}'; choose another metrics.listen, below 1024 so that no user can take it, or metrics: null`;
    alsoListen("metrics", remedy, () => metricsServer?.listen(listen));
  }
  let stopStatus = () => {};
  if (servesStatus()) {
    const facts = () => ({
      listen: served.all(),
      upstream: { url: upstream.url, reason: upstreamBecause },
      configuration: {
        path: configPath,
        current: loadedConfiguration.isCurrent,
        ...ruled,
        lastReload: reloadOf(loadedConfiguration),
        object: fleetObject.status(),
      },
    });
    const sources = {
      broker,
      problems: () => health.problems(),
      facts,
    };
    alsoListen(`imdsproxy status at ${ROOT_SOCKET}`, null, () => {
      stopStatus = startStatus({
        document: (asker) => status.document(asker, sources),
        shareOfUid,
        nowMs: monotonicMs,
      });
    });
  }
  warnOfPort(config.listen, log);
  const onMoved = () => {
    upstreamBecause = "the HyperPod agent was found later";
    // Everything that the former service gave is dropped: metadata, the instance credentials, the region.
    metadata.clear();
    sts.forgetCredentials();
    region.forget();
    void tokenPolicy.start();
  };
  const stopFollowing =
    config.upstream === "auto" ? followAgent({ upstream, onMoved, log, clock: systemClock }) : () => {};
  const reloader = new Reloader({
    load,
    closed,
    atStart: config,
    fleetObject,
    loadedConfiguration,
    onReading: () => replaced.reading(),
    take(fresh) {
      // Connections to the endpoints of before are served as well.
      const both = [...own, ...endpoints(fresh, true)];
      policy = policyOf(fresh, both, names.accounts);
      own = both.filter(
        (one, i) => both.findIndex((other) => endpointText(other) === endpointText(one)) === i,
      );
      served.follow(fresh);
      given.follow(policy.rules);
      ruled = { rules: fresh.rules.length, defaultRole: fresh.role };
    },
    log,
    clock: systemClock,
  });
  const replaced = new ReplacedFile({
    path: configPath,
    loaded: atStart,
    clock: systemClock,
    onReplaced() {
      // A new file with the text that is in effect needs no reload, unless the last reload was refused.
      if (!loadedConfiguration.isCurrent || !loadedConfiguration.lastReloadSuccessful) reloader.reload();
    },
  });
  options.signals.onReload(() => reloader.reload());
  const stopObject = fleetObject.follow(() => reloader.reload("object"));
  const stopWatchdog = feedWatchdog({
    limitMicroseconds: process.env["WATCHDOG_USEC"],
    isWell: () => server.accepting,
    notify: notifySystemd,
    clock: systemClock,
  });
  served.start();
  keepBacklogs();
  log.info("ready", {
    version,
    listen: served.all().join(" "),
    upstream: upstream.url,
    upstreamBecause: reason,
    role: config.role ?? "none: whom no rule names is refused",
    rules: config.rules.length,
    ...fleetObject.logged(),
  });
  const ofObject = fleetObject.finding();
  if (ofObject !== null) log.warn("the fleet's object is not there", { problem: ofObject.what });
  // systemd may have kept sockets of endpoints that the configuration no longer has.
  options.store.forgetRest();
  notifySystemd("READY=1");
  let stopStartRole = () => {};
  const stopSettling = systemClock.schedule(SETTLE_MS, () => {
    stopStartRole = watchStartRole({
      policy: () => policy,
      sts,
      metadata,
      region: region.told,
      health,
      endpoint: stsUrl,
      clock: systemClock,
      log,
      random: Math.random,
    });
    void sts.load().then(compileAsUsual);
  });
  lockProgram();
  const nowMs = systemClock.now();
  const before = readCallers(config.stateDirectory, nowMs, nowMs - RECENT_MS);
  // They stay remembered, so that another restart soon after this one finds them too.
  for (const one of before) recent.note(one, shareOfUid(one.uid), one.askedAtMs);
  const stopAnew = makeAnew({
    callers: before,
    begin: ({ uid, cgroupId }) => {
      const owner = { uid, cgroupId, redirected: true };
      handler.expect({ kind: "owner", owner, share: shareOfUid(uid) }, LEFT_FOR_ASKERS);
    },
    clock: systemClock,
    random: Math.random,
  });
  kept = keepCallers({
    recent,
    stateDirectory: config.stateDirectory,
    forMs: RECENT_MS,
    clock: systemClock,
    log,
  });

  const signal = await stopped;
  notifySystemd("STOPPING=1");
  log.info("stopping", { signal });
  replaced.stop();
  reloader.stop();
  stopFollowing();
  stopSettling();
  stopStartRole();
  stopObject();
  tokenPolicy.stop();
  lag.stop();
  stopAnew();
  served.stop();
  for (const one of optional) one.stop();
  stopStatus();
  await server.drain(DRAIN_MS);
  await metricsServer?.drain(0);
  audit.stop();
  await kept.stop();
  given.stop();
  broker.stop();
  sts.close();
  upstream.close();
  names.close();
  stopWatchdog();
  await systemdNotified();
  log.info("stopped");
}

const reloadOf = ({ lastReload }: LoadedConfiguration) =>
  lastReload === null ? null : { at: new Date(lastReload.atMs).toISOString(), problem: lastReload.problem };
