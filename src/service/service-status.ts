import { existsSync } from "node:fs";
import { loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import type { Problem } from "../telemetry/health.ts";
import { type RunCommand, runCommand } from "./command.ts";
import { wantedConfiguration } from "./configuration.ts";
import { accountUid, portFacts } from "./facts.ts";
import { lockWarnings } from "./imds-lock.ts";
import { imdsChainWarning } from "./parallelcluster.ts";
import { BINARY, CONFIG, OBJECT_UNITS, UNIT_DIRECTORY, UNITS } from "./paths.ts";
import { portWarnings } from "./port-warnings.ts";
import { type ProxyHealth, proxyHealth } from "./proxy-health.ts";
import { smcWarnings } from "./smc.ts";

/** The state of the service for `service status`, and the parts of it that `status` shows as well. */

/** Whether the units that poll the fleet's object are installed. */
export const hasObjectUnits = (): boolean => existsSync(`${UNIT_DIRECTORY}/${OBJECT_UNITS.timer}`);

/** Warnings about other firewalls of the node that keep the proxy from the metadata service. */
export async function othersWarnings(run: RunCommand): Promise<readonly string[]> {
  const warning = await imdsChainWarning(run, await accountUid());
  return warning === null ? [] : [warning];
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
  const installed = existsSync(BINARY) || existsSync(`${UNIT_DIRECTORY}/${UNITS.proxy}`);
  const { version, problem } = installed ? await installedVersion(run) : { version: null, problem: null };
  // The closed unit runs at boot alone: setup does not start it.
  const runs = ({ name, enabled, active }: (typeof units)[number]) =>
    enabled === "enabled" && (active === "active" || (name === UNITS.closed && active === "inactive"));
  return {
    installed,
    account: (await accountUid()) !== null,
    units,
    version,
    problems: !installed
      ? []
      : [
          ...(problem === null ? [] : [{ unit: BINARY, ...problem }]),
          ...units
            .filter((unit) => !runs(unit))
            .map(({ name, enabled, active }) => ({
              unit: name,
              what: `${name} is ${enabled}, ${active}`,
              remedy: `imdsproxy service enable; journalctl -u ${name}`,
            })),
        ],
  };
}

/** What the installed executable says that it is; or why it cannot be run, so that no unit starts again. */
async function installedVersion(
  run: RunCommand,
): Promise<{ readonly version: string | null; readonly problem: Pick<Problem, "what" | "remedy"> | null }> {
  const { exitCode, stdout, stderr } = await run([BINARY, "--version"]).catch((error) => ({
    ...{ exitCode: 126, stdout: "" },
    stderr: error instanceof Error ? error.message : String(error),
  }));
  const [why = ""] = stderr.trim().split("\n");
  if (exitCode === 0) return { version: stdout.trim(), problem: null };
  const what = existsSync(BINARY)
    ? `the installed executable ${BINARY} cannot be run (exit code ${exitCode}${why === "" ? "" : `: ${why}`})`
    : `the installed executable ${BINARY} is gone`;
  return { version: null, problem: { what, remedy: "install it again, from a copy: ./imdsproxy setup" } };
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
  ...smcWarnings(),
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
