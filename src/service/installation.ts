import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { type ConfigFile, parseFile, textOfFile, withCopy } from "../config/load.ts";
import { textOfBytes } from "../config/object.ts";
import type { ConfigOverrides } from "../config/overrides.ts";
import type { Platform } from "../config/platforms.ts";
import { namesSource, sourceText } from "../config/remote.ts";
import { isServiceState } from "../config/service-values.ts";
import { ImdsProxyError } from "../errors.ts";
import { fetchObject } from "../fleet/poll.ts";
import { compiledExecutable } from "../platform/self.ts";
import type { RunCommand } from "./command.ts";
import { namesPlatform, wantedConfiguration, withoutMetrics } from "./configuration.ts";
import { lastListen, portFacts } from "./facts.ts";
import { withNodeSources } from "./fleet-object.ts";
import { takeObject } from "./given-object.ts";
import { isCurrent, readIfThere } from "./installed-file.ts";
import { loginWarnings } from "./login-warnings.ts";
import {
  CONFIG,
  HANDOVER_UNIT,
  MODPROBE,
  RUNTIME_UNIT_DIRECTORY,
  TO_RESTART,
  UNIT_DIRECTORY,
  UNITS,
} from "./paths.ts";
import type { Installation } from "./plan.ts";
import { detectPlatform } from "./platform.ts";
import { portWarnings } from "./port-warnings.ts";
import type { Progress } from "./progress.ts";
import type { NodeFacts } from "./requirements.ts";
import { hasObjectUnits } from "./service-status.ts";
import { hasSmc } from "./smc.ts";
import { stateDirectoryOf } from "./units/proxy.ts";

/** What setup installs: the configuration that was given or is there, the fleet's object, and the state of the node. */

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

/** @throws ImdsProxyError `usage` where the program runs from source. */
export function ownExecutable(): string {
  const executable = compiledExecutable();
  if (executable !== null) return executable;
  throw new ImdsProxyError(
    "usage",
    "setup installs the executable that it is part of, and this is not one",
    "make build, then dist/imdsproxy setup …",
  );
}

/** Gathers what the plan needs. Changes nothing. @throws ImdsProxyError where the configuration cannot be had or is wrong. */
export async function installation(
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
  const installedState = stateDirectoryOf(readIfThere(`${UNIT_DIRECTORY}/${UNITS.proxy}`) ?? "");
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
    hasModprobe: existsSync(dirname(MODPROBE)),
    hasSmc: hasSmc(),
    hasHandover: existsSync(`${RUNTIME_UNIT_DIRECTORY}/${HANDOVER_UNIT}`),
    state: { installed: installedState ?? config.stateDirectory, outdated: outdatedState() },
  };
}

/** The state directory of the unit from which the proxy runs, where that was replaced since; else null. */
function outdatedState(): string | null {
  const text = readIfThere(TO_RESTART);
  if (text === null) return null;
  return isServiceState(text) ? text : "/var/lib/imdsproxy";
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
