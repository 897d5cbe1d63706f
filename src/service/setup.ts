import { closeSync, existsSync } from "node:fs";
import { loadConfig } from "../config/load.ts";
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
import type { Endpoint } from "../identity/endpoint.ts";
import { waitForLock } from "../platform/file-lock.ts";
import { isLocked } from "../upstream/imds-lock.ts";
import { mustRun, runCommand } from "./command.ts";
import { wantedConfiguration } from "./configuration.ts";
import { directoryUidWarnings } from "./directory-uids.ts";
import { describePlan, execute } from "./execute.ts";
import { gatherFacts } from "./facts.ts";
import { instanceProbe, lockWarnings } from "./imds-lock.ts";
import { type InstallOptions, installation, ownExecutable, type ServiceOptions } from "./installation.ts";
import { readIfThere } from "./installed-file.ts";
import { unlessInterrupted } from "./interrupted.ts";
import { withLock } from "./lock.ts";
import { nodeWarnings } from "./node-warnings.ts";
import { BINARY, CONFIG, JOURNAL, LOCK, TO_RESTART, UNIT_DIRECTORY, UNITS } from "./paths.ts";
import {
  disableSteps,
  enableSteps,
  INSTALLED_PATHS,
  installSteps,
  type Step,
  uninstallSteps,
} from "./plan.ts";
import { proxyHealth } from "./proxy-health.ts";
import { type NodeFacts, unmet } from "./requirements.ts";
import { hasObjectUnits, othersWarnings } from "./service-status.ts";
import { smcWarnings } from "./smc.ts";
import { discard, fileProblem, recover, stagedPath } from "./transaction.ts";
import { stateDirectoryOf } from "./units/proxy.ts";
import { findExempt, findTester, type Verification, verify } from "./verify.ts";

/** The operations of `setup` and `service`: each makes a plan and executes it under the same lock. */

/** How long a second setup waits for the first. */
const LOCK_WAIT_MS = 300_000;
/** How long to verify again: the agent, the metadata service and STS may answer only after the lifecycle script has run setup. */
const VERIFY_WAIT_MS = 30_000;

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
      // Of this process and of the programs that it starts: the service's account must get at what they make.
      const umask = process.umask(0o022);
      try {
        for (const path of recover(JOURNAL)) options.say(`finished an interrupted setup: ${path}`);
        // An earlier setup that was killed may have left staged files that this one will not replace.
        discard([...INSTALLED_PATHS, JOURNAL]);
        return await work();
      } catch (error) {
        throw fileProblem(error) ?? error;
      } finally {
        process.umask(umask);
      }
    },
  );
}

/**
 * Completes an interrupted setup at boot, before anything of it starts. Does nothing while a setup is at work: that completes itself.
 *
 * @throws ImdsProxyError where it cannot be completed.
 */
export async function completeInterrupted(say: (line: string) => void): Promise<void> {
  const descriptor = await waitForLock(LOCK, { limitMs: 0, pollMs: 200, onWait: () => {} });
  if (descriptor === null) return;
  try {
    const moved = recover(JOURNAL);
    for (const path of moved) say(`finished an interrupted setup: ${path}`);
    if (moved.length > 0) await mustRun(runCommand, ["systemctl", "daemon-reload"]);
  } catch (error) {
    throw fileProblem(error) ?? error;
  } finally {
    closeSync(descriptor);
  }
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
    await carryOut(
      enableSteps({ hasObjectUnits: hasObjectUnits(), proxyOutdated: existsSync(TO_RESTART) }),
      options,
    );
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
    const verifies = () =>
      verify(config, tester, directAddresses(config), {
        exempt,
        locked: isLocked()
          ? async () => instanceProbe((await buildFirewallSpec(config)).spec.upstream)
          : null,
        waitMs: VERIFY_WAIT_MS,
        health: () => proxyHealth(config),
        say: options.say,
      });
    const verification = await options.step(`verify as ${names}`, () =>
      unlessInterrupted(verifies, unverified),
    );
    return { ...verification, config };
  });
}

const unverified = (): ImdsProxyError =>
  new ImdsProxyError(
    "command-failed",
    "interrupted while it was verified: everything is installed and runs",
    "imdsproxy status says whether it is right",
  );

/** The names as a part of a sentence: `nobody and as root`, `nobody, as pcluster-admin and as root`. */
const listOf = (names: readonly string[]): string =>
  [names.slice(0, -1).join(", as "), ...names.slice(-1)].join(" and as ");

/** Reports other firewalls that block the proxy, a missing second wall, the limits of connections, and where the agent listens. */
async function sayOfWalls(config: Config, { say }: ServiceOptions): Promise<void> {
  for (const warning of [...(await othersWarnings(runCommand)), ...smcWarnings()]) say(`warning: ${warning}`);
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
