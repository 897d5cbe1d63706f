import { existsSync, readFileSync } from "node:fs";
import { DEFAULT_CONFIG_PATH, loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import type { Dropped } from "../firewall/limits/own-table.ts";
import { buildFirewallSpec } from "../firewall/spec.ts";
import { endpointText } from "../identity/endpoint.ts";
import { lockHolder } from "../platform/file-lock.ts";
import type { RootStatus } from "../telemetry/status-document.ts";
import { LOCK, UNITS } from "./paths.ts";
import { type RulesStatus, rulesStatus } from "./rules-status.ts";
import { listenOfKnownRules, servedListen } from "./served-listen.ts";
import { NOT_INSTALLED, nodeNotes, type UnitsStatus, unitsStatus } from "./service-status.ts";

/** The state of the node for `imdsproxy status` as root: what this process finds, and what the running proxy reports of itself. */

/** Something that is wrong. */
export interface Trouble {
  /** `not-installed`, `rules`, `proxy`, `unit`, `configuration`, or the id of the proxy's problem: stable, for scripts. */
  readonly id: string;
  readonly what: string;
  /** ISO 8601, UTC; null where it is not known. */
  readonly since: string | null;
  readonly remedy: string | null;
}

/** The report of the running proxy, or why there is none. */
export type ProxyAnswer =
  | { readonly kind: "answered"; readonly status: RootStatus }
  | {
      readonly kind: "silent";
      readonly why: string;
      /** True where a proxy answers in a format that this version does not know. It counts as serving. */
      readonly otherVersion?: true;
    };

/** What was found on the node. */
export interface NodeFindings {
  readonly proxy: ProxyAnswer;
  readonly units: UnitsStatus;
  /** Whether there is a configuration. Without one and without the service, nothing should run: the one trouble is `not-installed`. */
  readonly configured: boolean;
  /** Null where it cannot be compared, because the configuration cannot be read. */
  readonly rules: Pick<RulesStatus, "healthy" | "differences" | "notes"> | null;
  /** What the kernel's limits have dropped; null where that is not known. */
  readonly dropped: Dropped | null;
  /** The upstream that the configuration means on this node; null where that is not known. */
  readonly upstream: { readonly url: string; readonly reason: string } | null;
  /** Why the configuration's file cannot be used; null where it can. */
  readonly configurationProblem: { readonly what: string; readonly remedy: string | null } | null;
  readonly notes: readonly string[];
  /** The command that is changing the installation now; null where none is. */
  readonly atWork: AtWork | null;
}

/** A command that changes the installation. */
export interface AtWork {
  readonly pid: number;
  /** `setup` or `service install`, `enable`, `disable` or `uninstall`; null where its arguments cannot be read. */
  readonly command: string | null;
}

/** What `imdsproxy status` shows to root; `--json` prints it as it is. */
export interface NodeStatus {
  readonly healthy: boolean;
  /** One line: that all is well, or the first trouble. */
  readonly summary: string;
  /** The most serious first. */
  readonly troubles: readonly Trouble[];
  readonly proxy:
    | {
        readonly running: true;
        readonly version: string;
        readonly started: string;
        readonly listen: readonly string[];
      }
    | { readonly running: false; readonly why: string };
  readonly installed: Pick<UnitsStatus, "version" | "units"> | null;
  readonly upstream: { readonly url: string; readonly reason: string } | null;
  /** `inPlace` is null where it could not be compared. */
  readonly rules: { readonly inPlace: boolean | null; readonly differences: readonly string[] };
  /** Packets that the kernel's limits of connections dropped since their table was made; null where that is not known. */
  readonly dropped: Dropped | null;
  readonly configuration: RootStatus["configuration"] | null;
  readonly sessions: RootStatus["sessions"] | null;
  readonly users: RootStatus["users"] | null;
  readonly errors: RootStatus["errors"] | null;
  readonly notes: readonly string[];
  /** The process of a `setup` that is at work on the node, as in an upgrade, or of `service install`, `disable`, …; null where there is none. */
  readonly setupPid: number | null;
  /** Which of them it is: `setup`, `service disable`, …; null where that is not known, and where there is none. */
  readonly setupCommand: string | null;
}

/** Looks at the node. @param configPath default: the installed configuration, if it is there. */
export async function findNode(
  configPath: string | undefined,
  proxy: Promise<ProxyAnswer>,
): Promise<NodeFindings> {
  let config: Config | null = null;
  let configurationProblem: NodeFindings["configurationProblem"] = null;
  try {
    config = loadConfig({ path: configPath });
  } catch (error) {
    if (!(error instanceof ImdsProxyError)) throw error;
    configurationProblem = { what: error.problem, remedy: error.remedy };
  }
  const before = workOnInstallation();
  const [units, firewall, notes] = await Promise.all([
    unitsStatus(),
    config === null ? null : firewallOf(config),
    config === null ? [] : nodeNotes(config),
  ]);
  const answer = await proxy;
  return {
    // Looked for twice, because a command may begin or end in between.
    atWork: before ?? workOnInstallation(),
    proxy: answer,
    units,
    configured: existsSync(configPath ?? DEFAULT_CONFIG_PATH),
    rules: firewall?.rules ?? null,
    dropped: firewall?.rules.limits.dropped ?? null,
    upstream: firewall?.upstream ?? null,
    configurationProblem,
    notes: [...(firewall?.notes ?? []), ...notes],
  };
}

/** The command that is changing this node's installation, found by the lock that it holds, which only root can. Null for none. */
export function workOnInstallation(): AtWork | null {
  try {
    const pid = lockHolder(LOCK);
    if (pid === null) return null;
    return { pid, command: commandIn(readFileSync(`/proc/${pid}/cmdline`, "utf8")) };
  } catch {
    // Unknown without /proc, or where the command has just ended. The findings are then reported as if none were at work.
    return null;
  }
}

/** The command among a process's arguments, which end with NUL (proc_pid_cmdline(5)). Run from source, the script's path precedes it. */
export function commandIn(cmdline: string): string | null {
  const [, ...args] = cmdline.split("\0");
  const at = args.findIndex((arg) => arg === "setup" || arg === "service");
  if (at < 0 || at > 1) return null;
  if (args[at] === "setup") return "setup";
  const name = ["install", "enable", ...TAKING_AWAY].find((one) => one === args[at + 1]);
  return name === undefined ? null : `service ${name}`;
}

const TAKING_AWAY = ["disable", "uninstall"];

/** Whether the command leaves the node without a running proxy. */
export const takesAway = ({ command }: AtWork): boolean =>
  TAKING_AWAY.some((name) => command === `service ${name}`);

async function firewallOf(config: Config) {
  const { spec, upstream, unknownExempt } = await buildFirewallSpec(config);
  const served = servedListen(spec, listenOfKnownRules());
  const rules = await rulesStatus(served.spec);
  return {
    rules,
    upstream: { url: `http://${endpointText(spec.upstream)}`, reason: upstream.reason },
    notes: [
      ...(served.note === null ? [] : [served.note]),
      ...rules.notes,
      ...(unknownExempt === null ? [] : [unknownExempt.problem]),
    ],
  };
}

/** Makes the status of the findings. Pure. */
export function nodeStatus(found: NodeFindings): NodeStatus {
  const told = found.proxy.kind === "answered" ? found.proxy.status : null;
  const troubles = troublesOf(found, told);
  const [first, ...further] = troubles;
  const more = further.length === 0 ? "" : `; and ${further.length} more, below`;
  const { atWork } = found;
  const serves = told !== null || (found.proxy.kind === "silent" && found.proxy.otherVersion === true);
  // Whether the only troubles are those that a setup causes and ends itself while the proxy serves: files of two versions, units
  // that it restarts.
  const isPassing =
    atWork !== null &&
    serves &&
    (takesAway(atWork) ? troubles.length === 0 : troubles.every(({ id }) => id === "unit" || id === "proxy"));
  const { installed, version, units } = found.units;
  return {
    healthy: first === undefined || isPassing,
    summary: isPassing
      ? `${underWay(atWork)}${first === undefined ? "" : `; for now: ${first.what}${more}`}`
      : first === undefined
        ? "healthy: the proxy runs, the rules are in place, nothing keeps users from their roles"
        : `NOT healthy: ${atWork !== null && takesAway(atWork) ? `${workText(atWork)}; for now: ` : ""}${first.what}${more}`,
    setupPid: atWork?.pid ?? null,
    setupCommand: atWork?.command ?? null,
    troubles,
    proxy:
      told === null
        ? { running: false, why: found.proxy.kind === "silent" ? found.proxy.why : "" }
        : { running: true, version: told.version, started: told.started, listen: told.listen },
    installed: installed ? { version, units } : null,
    upstream: told?.upstream ?? found.upstream,
    rules: { inPlace: found.rules?.healthy ?? null, differences: found.rules?.differences ?? [] },
    dropped: found.dropped,
    configuration: told?.configuration ?? null,
    sessions: told?.sessions ?? null,
    users: told?.users ?? null,
    errors: told?.errors ?? null,
    notes: [
      ...(told !== null && !installed ? ["the proxy was started by hand: no service is installed"] : []),
      ...(told !== null && told.problems.more > 0
        ? [`${told.problems.more} more problems of the proxy`]
        : []),
      ...found.notes,
    ],
  };
}

const workText = ({ command, pid }: AtWork): string =>
  command === null
    ? `a change of the installation (pid ${pid}) is at work`
    : `imdsproxy ${command} (pid ${pid}) is at work`;

function underWay(work: AtWork): string {
  if (takesAway(work)) return `${workText(work)}, and the proxy still serves`;
  return `${work.command === "setup" ? "an upgrade is under way: " : ""}${workText(work)}, and the proxy serves`;
}

/** Problems that cause others come first: without the upstream there are no credentials for STS. The rest keep the proxy's order. */
const CAUSES = ["upstream", "clock"];
const causeRank = (id: string): number => (CAUSES.includes(id) ? CAUSES.indexOf(id) : CAUSES.length);

function troublesOf(
  { proxy, units, configured, rules, configurationProblem }: NodeFindings,
  told: RootStatus | null,
): Trouble[] {
  if (told === null && !units.installed && !configured) {
    return [{ id: "not-installed", since: null, ...NOT_INSTALLED }];
  }
  const troubles: Trouble[] = [];
  if (rules !== null && !rules.healthy) {
    const count = rules.differences.length;
    troubles.push({
      id: "rules",
      what: `the firewall rules are not as they should be, so users may reach the instance role (${rules.differences[0]}${count > 1 ? `; and ${count - 1} more` : ""})`,
      since: null,
      remedy: "sudo imdsproxy iptables apply; then: journalctl -u imdsproxy-repair",
    });
  }
  const proxyUnit = units.units.find(({ name }) => name === UNITS.proxy);
  if (proxy.kind === "silent") {
    const state = units.installed ? ` (${UNITS.proxy} is ${proxyUnit?.active ?? "unknown"})` : "";
    troubles.push({
      id: "proxy",
      what: proxy.otherVersion ? proxy.why : `${proxy.why}${state}: users get no credentials`,
      since: null,
      remedy: `systemctl status ${UNITS.proxy}; journalctl -u ${UNITS.proxy} -n 20`,
    });
  }
  const problems = [...(told?.problems.rows ?? [])].sort((a, b) => causeRank(a.id) - causeRank(b.id));
  for (const { id, what, since, remedy } of problems) {
    // Rules that were compared just now are more current than the last report of the watch.
    if (id !== "firewall" || rules === null) troubles.push({ id, what, since, remedy });
  }
  const isToldAlready = troubles.some(({ id }) => id === "configuration");
  if (configurationProblem !== null && !isToldAlready) {
    troubles.push({ id: "configuration", since: null, ...configurationProblem });
  }
  for (const { unit, what, remedy } of units.problems) {
    if (proxy.kind === "answered" || unit !== UNITS.proxy)
      troubles.push({ id: "unit", what, since: null, remedy });
  }
  return troubles;
}
