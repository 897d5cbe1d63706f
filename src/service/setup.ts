import {
  closeSync,
  existsSync,
  lstatSync,
  openSync,
  readFileSync,
  readSync,
  realpathSync,
  statSync,
} from "node:fs";
import { type ConfigFile, loadConfig, parseFile, textOfFile, withCopy } from "../config/load.ts";
import { textOfBytes } from "../config/object.ts";
import type { ConfigOverrides } from "../config/overrides.ts";
import type { Platform } from "../config/platforms.ts";
import { namesSource, sourceText } from "../config/remote.ts";
import type { Config } from "../config/schema.ts";
import { configWarnings } from "../config/warnings.ts";
import { ImdsProxyError } from "../errors.ts";
import { HYPERPOD_AGENT, METADATA, sameEndpoint } from "../firewall/addresses.ts";
import { everywhere } from "../firewall/direct-access.ts";
import { limitsLines } from "../firewall/limits/operations.ts";
import { listenerLines, upstreamListeners } from "../firewall/listeners.ts";
import { accountsHere, exemptOf, platformLines } from "../firewall/platform-accounts.ts";
import { buildFirewallSpec, localAddresses } from "../firewall/spec.ts";
import { systemWall } from "../firewall/wall/wall.ts";
import { withoutWall } from "../firewall/walls.ts";
import { fetchObject } from "../fleet/poll.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import { compiledExecutable } from "../platform/self.ts";
import type { Problem } from "../telemetry/health.ts";
import { isLocked } from "../upstream/imds-lock.ts";
import { mustRun, type RunCommand, runCommand } from "./command.ts";
import { namesPlatform, wantedConfiguration, withoutMetrics } from "./configuration.ts";
import { directoryUidWarnings } from "./directory-uids.ts";
import { describePlan, execute } from "./execute.ts";
import { accountUid, gatherFacts, lastListen, portFacts } from "./facts.ts";
import { withNodeSources } from "./fleet-object.ts";
import { takeObject } from "./given-object.ts";
import { instanceProbe, lockWarnings } from "./imds-lock.ts";
import { withLock } from "./lock.ts";
import { loginWarnings } from "./login-warnings.ts";
import { nodeWarnings } from "./node-warnings.ts";
import { imdsChainWarning } from "./parallelcluster.ts";
import { BINARY, CONFIG, JOURNAL, LOCK, OBJECT_UNITS, UNIT_DIRECTORY, UNITS } from "./paths.ts";
import {
  disableSteps,
  enableSteps,
  INSTALLED_PATHS,
  type Installation,
  installSteps,
  type Step,
  uninstallSteps,
} from "./plan.ts";
import { detectPlatform } from "./platform.ts";
import { portWarnings } from "./port-warnings.ts";
import type { Progress } from "./progress.ts";
import { type ProxyHealth, proxyHealth } from "./proxy-health.ts";
import { type NodeFacts, unmet } from "./requirements.ts";
import { discard, type FileChange, fileProblem, recover, stagedPath } from "./transaction.ts";
import { stateDirectoryOf } from "./units.ts";
import { findExempt, findTester, type Verification, verify } from "./verify.ts";

/** The operations of `setup` and `service`: each makes a plan and executes it under the same lock. */

export interface ServiceOptions extends Progress {
  readonly dryRun: boolean;
}

export interface InstallOptions extends ServiceOptions {
  /** A configuration to install: a file, `s3://BUCKET/KEY` or `ssm:NAME`; undefined keeps what is there. */
  readonly configFile?: string | undefined;
  /** The SHA-256 that a configuration of S3 or SSM must have, in hexadecimal. */
  readonly configSha256?: string | undefined;
  readonly overrides: ConfigOverrides;
  /** The platform whose daemons' accounts are exempt; `auto` detects it. Undefined: the file's own value stays. */
  readonly platform?: Platform | "auto" | undefined;
  /** Users who become exempt besides those of the file. */
  readonly exempt?: readonly string[];
}

/** How long a second setup waits for the first. */
const LOCK_WAIT_MS = 300_000;
/** How long to verify again: the agent, the metadata service and STS may answer only after the lifecycle script has run setup. */
const VERIFY_WAIT_MS = 30_000;

/** @throws ImdsProxyError `usage` where the program runs from source. */
function ownExecutable(): string {
  const executable = compiledExecutable();
  if (executable !== null) return executable;
  throw new ImdsProxyError(
    "usage",
    "setup installs the executable that it is part of, and this is not one",
    "make build, then dist/imdsproxy setup …",
  );
}

function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw new ImdsProxyError(
      "config",
      `cannot read ${path}: ${(error as NodeJS.ErrnoException).code}`,
      "run it as root, and name a file that can be read",
    );
  }
}

async function installation(
  options: InstallOptions,
  facts: NodeFacts,
  run: RunCommand,
): Promise<Installation> {
  const executable = ownExecutable();
  const installed = facts.uid === 0 ? readIfThere(CONFIG) : null;
  const given = await givenConfiguration(options, installed);
  const platform = wantedPlatform(options, given?.text ?? installed, installed !== null && given === null);
  const { text, config } = wantedConfiguration({
    installed,
    given,
    overrides: options.overrides,
    ...(platform === null ? {} : { platform }),
    exempt: options.exempt ?? [],
    lastListen: facts.uid === 0 ? lastListen() : null,
  });
  const gid = facts.account?.gid;
  for (const warning of [...portWarnings(config.listen, portFacts()), ...loginWarnings()])
    options.say(`warning: ${warning}`);
  const object = await wantedObject(parseFile(text, given?.path ?? CONFIG), options);
  return {
    executable,
    systemdVersion: facts.systemdVersion ?? 252,
    config,
    configText: text,
    handoverConfigText: withoutMetrics(text),
    isCurrent: (change) => isCurrent(change, gid),
    object,
    hasObjectUnits: hasObjectUnits(),
    proxyActive: (await run(["systemctl", "--quiet", "is-active", UNITS.proxy])).exitCode === 0,
  };
}

/** The configuration that was named; null where none was. */
async function givenConfiguration(
  { configFile, configSha256, overrides }: InstallOptions,
  installed: string | null,
): Promise<{ readonly path: string; readonly text: string } | null> {
  if (configFile !== undefined && namesSource(configFile)) {
    const variable = configFile.startsWith("s3:") ? "AWS_ENDPOINT_URL_S3" : "AWS_ENDPOINT_URL_SSM";
    const endpoint = process.env[variable] ?? null;
    const given = { url: configFile, sha256: configSha256 ?? null, overrides, endpoint, installed };
    return { path: configFile, text: await takeObject(given) };
  }
  if (configSha256 !== undefined) {
    throw new ImdsProxyError(
      "usage",
      "setup: --config-sha256 without a configuration of S3 or SSM",
      "name one: --config s3://BUCKET/KEY, or --config ssm:NAME",
    );
  }
  return configFile === undefined
    ? null
    : {
        path: configFile,
        text: textOfFile(configFile, "the configuration", "name an existing file with --config FILE"),
      };
}

/**
 * The fleet's object, fetched before anything is changed; null where the node has it already, or takes none. Where it cannot be
 * fetched, setup continues with the copy on the disk, if there is one: a node without rules refuses its users, while a node without
 * setup gives them the instance role.
 */
async function wantedObject(file: ConfigFile, { say, dryRun }: ServiceOptions): Promise<string | null> {
  const remote = file.config.config;
  if (remote == null) return null;
  const name = sourceText(remote.source);
  if (dryRun && process.geteuid?.() !== 0) {
    say(`# fetch ${name}, which root alone can do`);
    return null;
  }
  try {
    const found = await withNodeSources(file.config, ({ credentials, region, now }) =>
      fetchObject({ file, credentials, region, now }),
    );
    if (found === null) return null;
    say(`the fleet's object ${name}: serial ${found.serial}, sha256 ${found.hash}`);
    return textOfBytes(found.bytes);
  } catch (error) {
    if (!(error instanceof ImdsProxyError)) throw error;
    const { object } = withCopy(file);
    const meanwhile =
      object?.kind === "good"
        ? `the rules of serial ${object.serial} stay`
        : "every user is refused until there is one";
    say(`warning: the fleet's object was not taken, and ${meanwhile}: ${error.problem}`);
    if (error.remedy !== null) say(`  ${error.remedy}`);
    return null;
  }
}

const hasObjectUnits = (): boolean => existsSync(`${UNIT_DIRECTORY}/${OBJECT_UNITS.timer}`);

/**
 * The platform to write into the configuration; null where its own value stays. What `auto` finds is not written in an upgrade,
 * which keeps the installed configuration: an upgrade alone must make nobody exempt, so it only prints the flag that would.
 */
function wantedPlatform(
  { platform, say }: InstallOptions,
  text: string | null,
  isUpgrade: boolean,
): Platform | null {
  if (platform === undefined) return null;
  if (platform !== "auto") return platform;
  if (namesPlatform(text)) return null;
  const found = detectPlatform();
  if (found.platform === "none") return null;
  if (!isUpgrade) {
    say(`platform: ${found.platform} (${found.reason}); --platform none makes none of its accounts exempt`);
    return found.platform;
  }
  say(
    `platform: this looks like ${found.platform} (${found.reason}), and the configuration names none: the accounts of its daemons ` +
      `get what users get; imdsproxy setup --platform ${found.platform} makes them exempt`,
  );
  return null;
}

/** Whether a file has the content, the mode and the owner that it should have. */
function isCurrent(change: FileChange, serviceGid: number | undefined): boolean {
  let found: ReturnType<typeof lstatSync>;
  try {
    found = lstatSync(change.path);
  } catch {
    return false;
  }
  const gid = change.forService === true ? serviceGid : 0;
  if (!found.isFile() || (found.mode & 0o7777) !== change.mode || found.uid !== 0 || found.gid !== gid)
    return false;
  if ("text" in change.content) return readFileSync(change.path, "utf8") === change.content.text;
  return sameBytes(change.path, realpathSync(change.content.copyOf));
}

function sameBytes(a: string, b: string): boolean {
  if (a === b) return true;
  if (statSync(a).size !== statSync(b).size) return false;
  const descriptors = [openSync(a, "r"), openSync(b, "r")] as const;
  const chunks = [Buffer.alloc(1 << 20), Buffer.alloc(1 << 20)] as const;
  try {
    for (;;) {
      const [left, right] = [readSync(descriptors[0], chunks[0]), readSync(descriptors[1], chunks[1])];
      if (left !== right || !chunks[0].subarray(0, left).equals(chunks[1].subarray(0, right))) return false;
      if (left === 0) return true;
    }
  } finally {
    for (const descriptor of descriptors) closeSync(descriptor);
  }
}

function refuseUnmet(facts: NodeFacts): void {
  const problems = unmet(facts);
  if (problems.length === 0) return;
  const root = facts.uid !== 0;
  throw new ImdsProxyError(
    root ? "permission" : "missing",
    problems.length === 1
      ? `cannot set up here: ${problems[0]}`
      : `cannot set up here:\n  ${problems.join("\n  ")}`,
    // The line of a single problem names its remedy itself.
    problems.length === 1 ? null : "nothing was changed; do what is said there, and run it again",
  );
}

async function carryOut(steps: readonly Step[], options: ServiceOptions): Promise<void> {
  if (options.dryRun) options.say(describePlan(steps));
  else await execute(steps, { run: runCommand, say: options.say, step: options.step });
}

async function locked<T>(options: ServiceOptions, work: () => Promise<T>): Promise<T> {
  if (options.dryRun) return work();
  if (process.geteuid?.() !== 0)
    throw new ImdsProxyError("permission", "not running as root", "run it with sudo");
  return withLock(
    LOCK,
    LOCK_WAIT_MS,
    () => options.say("another setup is running: waiting for it"),
    async () => {
      try {
        for (const path of recover(JOURNAL)) options.say(`finished an interrupted setup: ${path}`);
        // An earlier setup that was killed may have left staged files that this one will not replace.
        discard(INSTALLED_PATHS);
        return await work();
      } catch (error) {
        throw fileProblem(error) ?? error;
      }
    },
  );
}

/** Installs the files; starts nothing. */
export async function install(options: InstallOptions): Promise<void> {
  await locked(options, async () => {
    const facts = await gatherFacts(runCommand, ownExecutable());
    if (!options.dryRun) refuseUnmet(facts);
    const wanted = await installation(options, facts, runCommand);
    await carryOut(installSteps(wanted, stagedPath, { start: false }), options);
  });
}

/** Starts what is installed, now and at every boot. */
export async function enable(options: ServiceOptions): Promise<void> {
  await locked(options, async () => {
    if (!options.dryRun && !existsSync(BINARY)) {
      throw new ImdsProxyError(
        "missing",
        "the service is not installed",
        "imdsproxy service install, or imdsproxy setup",
      );
    }
    await carryOut(enableSteps({ hasObjectUnits: hasObjectUnits() }), options);
  });
}

/** Stops the service and restores the node's firewall. */
export async function disable(options: ServiceOptions): Promise<void> {
  await locked(options, () => carryOut(disableSteps(), options));
}

/** Removes the service from the node. */
export async function uninstall(options: ServiceOptions & { readonly keepState: boolean }): Promise<void> {
  await locked(options, () =>
    carryOut(uninstallSteps(stateDirectory(), stagedPath, options.keepState), options),
  );
}

/**
 * The state directory that setup made: the unit has its name, whatever has become of the configuration since. Without a unit, that of the
 * configuration, else the default. Always a directory in /var/lib.
 */
function stateDirectory(): string {
  const sources = [
    () => stateDirectoryOf(readIfThere(`${UNIT_DIRECTORY}/${UNITS.proxy}`) ?? ""),
    () =>
      wantedConfiguration({ installed: readIfThere(CONFIG), given: null, overrides: {} }).config
        .stateDirectory,
  ];
  for (const source of sources) {
    try {
      const found = source();
      if (found !== null) return found;
    } catch {
      // Uninstall removes what it can of a node whose files cannot be read.
    }
  }
  return "/var/lib/imdsproxy";
}

export interface SetupOptions extends InstallOptions {
  /** An ordinary account to verify as; default nobody. */
  readonly verifyAs: string;
}

/** What setup's verification found, and the configuration that it verified. */
export interface SetupReport extends Verification {
  readonly config: Config;
}

/**
 * Installs, starts and verifies.
 *
 * @returns what the verification found; null for a dry run.
 * @throws ImdsProxyError where a step failed. Where that was before the files were moved into place, nothing has changed.
 */
export async function setup(options: SetupOptions): Promise<SetupReport | null> {
  return locked(options, async () => {
    const facts = await gatherFacts(runCommand, ownExecutable());
    if (options.dryRun) for (const problem of unmet(facts)) options.say(`# not met: ${problem}`);
    else refuseUnmet(facts);
    const wanted = await installation(options, facts, runCommand);
    for (const warning of [
      ...configWarnings(wanted.config).map(({ text }) => text),
      ...(await nodeWarnings(wanted.config)),
      ...(await lockWarnings()),
    ]) {
      options.say(`warning: ${warning}`);
    }
    const platformAccounts = accountsHere(wanted.config.platform);
    for (const line of platformLines(wanted.config.platform, platformAccounts)) options.say(line);
    for (const warning of await directoryUidWarnings(wanted.config, platformAccounts))
      options.say(`warning: ${warning}`);
    const tester = await findTester(options.verifyAs, wanted.config, exemptOf(platformAccounts));
    const exempt = await findExempt(wanted.config, platformAccounts);
    await carryOut(installSteps(wanted, stagedPath, { start: true }), options);
    const names = listOf([tester.name, ...exempt.map(({ name }) => name), "root"]);
    if (options.dryRun) {
      options.say(`# verify as ${names}`);
      return null;
    }
    await sayOfWalls(wanted.config, options);
    // Loaded again, because it now includes the rules of the fleet's object, whose copy was just installed.
    const config = loadConfig({ path: CONFIG });
    const verification = await options.step(`verify as ${names}`, () =>
      verify(config, tester, directAddresses(config), {
        exempt,
        locked: isLocked()
          ? async () => instanceProbe((await buildFirewallSpec(config)).spec.upstream)
          : null,
        waitMs: VERIFY_WAIT_MS,
        health: () => proxyHealth(config),
        say: options.say,
      }),
    );
    return { ...verification, config };
  });
}

/** Warnings about other firewalls of the node that keep the proxy from the metadata service. */
async function othersWarnings(run: RunCommand): Promise<readonly string[]> {
  const warning = await imdsChainWarning(run, await accountUid());
  return warning === null ? [] : [warning];
}

/** The names as a part of a sentence: `nobody and as root`, `nobody, as pcluster-admin and as root`. */
const listOf = (names: readonly string[]): string =>
  [names.slice(0, -1).join(", as "), ...names.slice(-1)].join(" and as ");

/** Reports other firewalls that block the proxy, a missing second wall, the limits of connections, and where the agent listens. */
async function sayOfWalls(config: Config, { say }: ServiceOptions): Promise<void> {
  for (const warning of await othersWarnings(runCommand)) say(`warning: ${warning}`);
  const { unavailable } = systemWall();
  if (unavailable !== null) say(withoutWall(unavailable));
  const { spec } = await buildFirewallSpec(config);
  for (const line of [...limitsLines(spec), ...listenerLines(upstreamListeners(spec))]) say(line);
}

/** Endpoints that may give the instance role without the redirect: the upstream, and its port at every address of this node. */
export function directAddresses({ upstream }: Config): readonly Endpoint[] {
  const others = upstream === "auto" || upstream.address === METADATA.ipv4.address ? [] : [upstream];
  const known = [HYPERPOD_AGENT, ...others].filter(
    (endpoint, i, all) => all.findIndex((one) => sameEndpoint(one, endpoint)) === i,
  );
  const local = new Set(localAddresses());
  const ports = known.filter(({ address }) => local.has(address)).map(({ port }) => port);
  const everywhereElse = everywhere(ports).filter(
    (endpoint) => !known.some((one) => sameEndpoint(one, endpoint)),
  );
  return [...known, ...everywhereElse];
}

/** The state of the service. */
export interface ServiceStatus {
  readonly installed: boolean;
  readonly account: boolean;
  readonly units: readonly { readonly name: string; readonly enabled: string; readonly active: string }[];
  readonly version: string | null;
  /** True where all units run and no problem keeps callers from their credentials. */
  readonly healthy: boolean;
  /** What the proxy says of itself; null where it is not installed. */
  readonly proxy: ProxyHealth | null;
  /** Everything that is wrong, in words. */
  readonly problems: readonly Pick<Problem, "what" | "remedy">[];
  /** What an operator should know, one line each; these do not make the service unhealthy. */
  readonly notes: readonly string[];
}

/** What is installed, and what systemd says of it. */
export interface UnitsStatus extends Pick<ServiceStatus, "installed" | "account" | "units" | "version"> {
  /** What is wrong with the units, by their names; empty where nothing is installed. */
  readonly problems: readonly (Pick<Problem, "what" | "remedy"> & { readonly unit: string })[];
}

export async function unitsStatus(run: RunCommand = runCommand): Promise<UnitsStatus> {
  const names = [...Object.values(UNITS), ...(hasObjectUnits() ? [OBJECT_UNITS.timer] : [])];
  const units = await Promise.all(
    names.map(async (name) => ({
      name,
      enabled: (await run(["systemctl", "is-enabled", name])).stdout.trim() || "not found",
      active: (await run(["systemctl", "is-active", name])).stdout.trim() || "unknown",
    })),
  );
  const installed = existsSync(BINARY);
  // The closed unit runs at boot alone: setup does not start it.
  const runs = ({ name, enabled, active }: (typeof units)[number]) =>
    enabled === "enabled" && (active === "active" || (name === UNITS.closed && active === "inactive"));
  return {
    installed,
    account: (await accountUid()) !== null,
    units,
    version: installed ? (await mustRun(run, [BINARY, "--version"])).trim() : null,
    problems: !installed
      ? []
      : units
          .filter((unit) => !runs(unit))
          .map(({ name, enabled, active }) => ({
            unit: name,
            what: `${name} is ${enabled}, ${active}`,
            remedy: `imdsproxy service enable; journalctl -u ${name}`,
          })),
  };
}

export const NOT_INSTALLED = { what: "the service is not installed", remedy: "imdsproxy setup" } as const;

export async function serviceStatus(run: RunCommand = runCommand): Promise<ServiceStatus> {
  const found = await unitsStatus(run);
  const { installed, account, units, version } = found;
  const problems: Pick<Problem, "what" | "remedy">[] = installed
    ? found.problems.map(({ what, remedy }) => ({ what, remedy }))
    : [NOT_INSTALLED];
  const config = installed ? installedConfiguration(problems) : null;
  const proxy = config === null ? null : await proxyHealth(config);
  if (proxy?.kind === "answered") problems.push(...proxy.problems);
  if (proxy?.kind === "silent") problems.push(proxy);
  return {
    installed,
    account,
    units,
    version,
    healthy: problems.length === 0,
    proxy,
    problems,
    notes: config === null ? [] : await nodeNotes(config, run),
  };
}

/** What an operator should know of the node, one line each. */
export const nodeNotes = async (
  config: Pick<Config, "listen">,
  run: RunCommand = runCommand,
): Promise<readonly string[]> => [
  ...portWarnings(config.listen, portFacts()),
  ...(await othersWarnings(run)),
  ...(await lockWarnings()),
];

/** The installed configuration; where it cannot be read, the defaults, with a problem that says why. */
function installedConfiguration(problems: Pick<Problem, "what" | "remedy">[]): Config {
  try {
    return loadConfig({ path: CONFIG });
  } catch (error) {
    if (!(error instanceof ImdsProxyError)) throw error;
    // Only root may read it, so for others this is no problem.
    if (process.geteuid?.() === 0) problems.push({ what: error.problem, remedy: error.remedy });
    return wantedConfiguration({ installed: "{}", given: null, overrides: {} }).config;
  }
}
