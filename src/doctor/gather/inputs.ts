import { readdirSync } from "node:fs";
import { loadConfig, parseConfig } from "../../config/load.ts";
import type { Config } from "../../config/schema.ts";
import { ImdsProxyError } from "../../errors.ts";
import { METADATA, sameEndpoint } from "../../firewall/addresses.ts";
import { directEndpoints } from "../../firewall/direct-access.ts";
import { buildFirewallSpec, type ResolvedFirewall } from "../../firewall/spec.ts";
import { endpointText } from "../../identity/endpoint.ts";
import { sleep } from "../../platform/clock.ts";
import { answerHops } from "../../platform/hop-limit.ts";
import { probe } from "../../service/probe.ts";
import { proxyHealth } from "../../service/proxy-health.ts";
import { expectedRole, findTester, judge, probeAs, type Tester } from "../../service/verify.ts";
import { HOME_FILES, SETTINGS } from "../checks/home-credentials.ts";
import { SYSTEM_FILES } from "../checks/system-files.ts";
import { ECS_ENDPOINTS, EKS_ENDPOINTS } from "../endpoints.ts";
import {
  type DoctorInputs,
  type Known,
  known,
  type LocalAccount,
  type ProcessFacts,
  type Reach,
  type UnitFacts,
  type UsableFile,
  unknown,
} from "../types.ts";
import { accountsHere, groupsHere, namesOf, sudoHere } from "./accounts.ts";
import { clockAgainstSts, simulationsHere } from "./aws.ts";
import { firewallHere } from "./firewall.ts";
import {
  bridgesHere,
  bridgeUsersHere,
  capturesHere,
  kernelHere,
  loginProgramsHere,
  ownFilesHere,
  portHere,
} from "./node.ts";
import { type FilesRequest, readFilesAnswer, readProcessAnswer, type Task } from "./requests.ts";
import { carriedOut } from "./tasks.ts";
import { imdsdHere, unitsHere } from "./units.ts";

/** Gathers everything that the checks need. An edge: must run as root. */

export interface GatherOptions {
  /** The ordinary user to try as. */
  readonly as: string;
  readonly admins: readonly string[];
  readonly configFile: string | undefined;
  /** Whether homes on network file systems are looked at. */
  readonly networkHomes: boolean;
}

/** Milliseconds for one home, or one process. */
const TASK_MS = 3_000;
/** Homes, and processes, that may hang before the others are left out. */
const MOST_HANGING = 5;
/** The most homes of accounts that are looked at. */
const MOST_HOMES = 2_000;
const SHELL_LESS = /\/(?:nologin|false|sync|shutdown|halt)$/;

/** Gathers one fact. A failure becomes the reason why it is unknown. */
async function attempted<T>(source: string, work: () => Promise<Known<T>>): Promise<Known<T>> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ImdsProxyError) return unknown(error.problem, source);
    const { code, name } = error as NodeJS.ErrnoException;
    return unknown(code ?? name ?? "it failed", source);
  }
}

/** @throws ImdsProxyError `usage` where there is no such ordinary user. */
export async function gather(options: GatherOptions): Promise<DoctorInputs> {
  const config = await attempted("the configuration", async () =>
    known(loadConfig({ path: options.configFile }), options.configFile ?? "the configuration"),
  );
  const settings = config.kind === "known" ? config.value : null;
  const resolved = await attempted("the firewall's rules", async () =>
    settings === null
      ? unknown("the configuration cannot be read", "the firewall's rules")
      : known(await buildFirewallSpec(settings), "the configuration, getent passwd"),
  );
  const exemptUids = resolved.kind === "known" ? resolved.value.spec.exemptUids : [0];
  const tester = await findTester(options.as, settings ?? loadDefaults(), exemptUids, "--as");

  const reaching = reachHere(tester, settings, resolved);
  const accounts = accountsHere();
  const local = accounts.kind === "known" ? accounts.value : [];
  const processes = await processesHere();
  const users = [...new Set(processes.kind === "known" ? processes.value.map(({ uid }) => uid) : [])];
  const others = await namesOf(users.filter((uid) => !local.some((account) => account.uid === uid)));
  const units = await attempted("systemctl", unitsHere);
  const groups = await groupsHere(local);
  const members = new Set(groups.kind === "known" ? groups.value.flatMap((group) => group.members) : []);
  const people = [
    ...local.filter(({ uid, shell }) => uid !== 0 && !SHELL_LESS.test(shell)).map(({ name }) => name),
    ...others.accounts.map(({ name }) => name),
    tester.name,
  ];
  const bridges = await attempted("ip link", bridgesHere);
  const [firewall, kernel, sudo, homeFiles, systemFiles, captures, clock, hopLimit, reached] =
    await Promise.all([
      attempted("the firewall", async () =>
        resolved.kind === "unknown" ? resolved : firewallHere(resolved.value.spec),
      ),
      attempted("the kernel", () => kernelHere(settings)),
      attempted("sudo", () => sudoHere([...new Set(people)], members, others.gaps)),
      attempted("the homes", () => homesHere(tester, local, others.accounts, options.networkHomes)),
      attempted("the system's files", () => systemFilesHere(tester, processes, units)),
      attempted("getcap", capturesHere),
      attempted("STS", async () =>
        settings === null ? unknown("the configuration cannot be read", "STS") : clockAgainstSts(settings),
      ),
      attempted("the hop limit", () => hopLimitHere(resolved, bridges)),
      reaching,
    ]);
  const { reach, containerEndpoints, instanceRole } = reached;
  const [health, simulations] = await Promise.all([
    // After the user has asked for credentials, so that the proxy knows of this user's role.
    attempted("the proxy", () => healthHere(settings)),
    attempted("IAM", async () =>
      settings === null
        ? unknown("the configuration cannot be read", "IAM")
        : simulationsHere(settings, instanceRole),
    ),
  ]);
  return {
    as: { name: tester.name, uid: tester.uid },
    admins: options.admins,
    exempt: resolved.kind === "known" ? known(exemptUids, resolved.source) : resolved,
    config,
    reach,
    health,
    firewall,
    port: portHere(settings),
    bridges,
    bridgeUsers: bridgeUsersHere(),
    hopLimit,
    kernel,
    accounts,
    groups,
    sudo,
    homeFiles,
    systemFiles,
    processes,
    units,
    ownFiles: await attempted("files of imdsproxy", async () => ownFilesHere(settings)),
    loginPrograms: loginProgramsHere(),
    captures,
    imdsd: imdsdHere(units),
    containerEndpoints,
    clock,
    simulations,
  };
}

/** For a node whose configuration cannot be read: nobody is exempt but root. */
const loadDefaults = (): Config => parseConfig("", "the defaults");

/** Passing failures are retried, as SDKs do: no answer in time, or a 503. */
const MOST_TRIES = 3;
const AGAIN_MS = 1_000;
const isPassing = ({ list, credentials }: Reach["user"]): boolean =>
  [0, 503].includes(list.status) || (list.status === 200 && [0, 503].includes(credentials.status));

async function reachHere(
  tester: Tester,
  config: Config | null,
  resolved: Known<ResolvedFirewall>,
): Promise<{
  reach: Known<Reach>;
  containerEndpoints: Known<readonly string[]>;
  instanceRole: string | null;
}> {
  const source = `requests and connections as ${tester.name} and as root`;
  const extra = [...ECS_ENDPOINTS, ...EKS_ENDPOINTS];
  const direct = resolved.kind === "known" ? directEndpoints(resolved.value.spec) : Object.values(METADATA);
  try {
    let root = await probe(null, []);
    for (let tries = 1; isPassing(root) && tries < MOST_TRIES; tries++) {
      await sleep(AGAIN_MS);
      root = await probe(null, []);
    }
    const listed = root.list.status === 200 ? root.list.text.trim() : "";
    const instanceRole = /^[\w+=,.@-]{1,64}$/.test(listed) ? listed : null;
    let user = await probeAs(tester, instanceRole, [...direct, ...extra]);
    for (let tries = 1; isPassing(user) && tries < MOST_TRIES; tries++) {
      await sleep(AGAIN_MS);
      user = await probeAs(tester, instanceRole, [...direct, ...extra]);
    }
    const isExtra = ({ endpoint }: Probed) => extra.some((one) => sameEndpoint(one, endpoint));
    const own = { ...user, direct: user.direct.filter((one) => !isExtra(one)) };
    return {
      reach: known(
        {
          user: own,
          root,
          judged: config === null ? [] : judge(expectedRole(config, tester), tester, own, root),
        },
        source,
      ),
      containerEndpoints: known(
        user.direct
          .filter((one) => isExtra(one) && one.result === "open")
          .map(({ endpoint }) => endpointText(endpoint)),
        source,
      ),
      instanceRole,
    };
  } catch (error) {
    // What the user's own process said may be anything: another process of that user can change it.
    const why = error instanceof ImdsProxyError ? error.problem : "the answers of the check cannot be read";
    const failed = unknown(why, source);
    return { reach: failed, containerEndpoints: failed, instanceRole: null };
  }
}
type Probed = Reach["user"]["direct"][number];

async function healthHere(config: Config | null): Promise<DoctorInputs["health"]> {
  const source = "the proxy's own health";
  if (config === null) return unknown("the configuration cannot be read", source);
  let health = await proxyHealth(config);
  if (health.kind === "silent") {
    await sleep(AGAIN_MS);
    health = await proxyHealth(config);
  }
  if (health.kind === "not-root") return unknown("only root is told", source);
  if (health.kind === "answered") return known(health.problems, source);
  return known(
    [{ id: "proxy", what: health.what, remedy: health.remedy, since: "now", lasting: true }],
    source,
  );
}

async function hopLimitHere(
  resolved: Known<ResolvedFirewall>,
  bridges: DoctorInputs["bridges"],
): Promise<DoctorInputs["hopLimit"]> {
  const source = "the TTL of the answer with a token";
  if (resolved.kind === "unknown") return unknown("where the upstream is, is not known", source);
  const { upstream, containers } = resolved.value.spec;
  if (containers !== "leave" || bridges.kind === "unknown" || bridges.value.length === 0)
    return unknown("it does not matter here", source);
  if (upstream.address !== METADATA.ipv4.address)
    return unknown("the upstream is an agent of this node", source);
  const hops = answerHops(upstream);
  return hops === null ? unknown("nothing answers", source) : known(hops, source);
}

async function processesHere(): Promise<Known<readonly ProcessFacts[]>> {
  const source = "/proc";
  const tasks = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((name): Task => ({ kind: "process", pid: Number(name) }));
  const result = await carriedOut(tasks, {
    as: { uid: 0, gid: 0 },
    read: readProcessAnswer,
    limitMs: TASK_MS,
    mostHanging: MOST_HANGING,
  });
  const pidOf = (index: number) => {
    const task = tasks[index];
    return task?.kind === "process" ? task.pid : 0;
  };
  return known(
    result.answers.filter((one) => one !== null),
    source,
    gapsOf(result, (index) => `process ${pidOf(index)}`, "processes"),
  );
}

/** One line for each task that was not carried out, and one for those that were left out. */
function gapsOf(
  { hanging, left, failure }: { hanging: readonly number[]; left: number; failure: string | null },
  nameOf: (index: number) => string,
  noun: string,
): string[] {
  return [
    ...hanging.map((index) => `${nameOf(index)} does not answer within ${TASK_MS / 1000} s`),
    ...(left === 0 ? [] : [`${left} ${noun} were left out: ${failure ?? "too many do not answer"}`]),
  ];
}

/** Directories that are nobody's home, by convention or by the distribution. */
const NO_HOME = /^\/(?:(?:nonexistent|dev|proc|sys|bin|sbin|usr|var\/empty)(?:\/.*)?)?$/;

async function homesHere(
  tester: Tester,
  local: readonly LocalAccount[],
  others: readonly { readonly name: string; readonly home: string }[],
  networkHomes: boolean,
): Promise<Known<readonly UsableFile[]>> {
  const files = Object.entries(HOME_FILES).map(([path, what]) => ({
    path,
    use: "read" as const,
    what,
    onlyWithSecrets: SETTINGS.includes(path),
  }));
  const { homes, gaps } = homesOf(tester.name, [...local, ...others]);
  const requests = homes.map(([base, of]): FilesRequest => ({ base, of, files }));
  const found = await filesHere(
    tester,
    requests,
    networkHomes,
    "homes",
    `the homes, looked at as ${tester.name}`,
  );
  return found.kind === "known" ? { ...found, gaps: [...found.gaps, ...gaps] } : found;
}

/** The homes to look at, each once with its owner, and what is left out. Pure. @param tester whose own home says nothing. */
export function homesOf(
  tester: string,
  accounts: readonly { readonly name: string; readonly home: string }[],
): { readonly homes: readonly (readonly [home: string, of: string])[]; readonly gaps: readonly string[] } {
  const homes = new Map<string, string>();
  for (const { name, home } of accounts) {
    if (name === tester || !home.startsWith("/") || NO_HOME.test(home) || homes.has(home)) continue;
    homes.set(home, name);
  }
  return {
    homes: [...homes].slice(0, MOST_HOMES),
    gaps: homes.size > MOST_HOMES ? [`the homes: only the first ${MOST_HOMES} of ${homes.size}`] : [],
  };
}

async function systemFilesHere(
  tester: Tester,
  processes: Known<readonly ProcessFacts[]>,
  units: Known<readonly UnitFacts[]>,
): Promise<Known<readonly UsableFile[]>> {
  const named = processes.kind === "known" ? processes.value : [];
  const loaded = units.kind === "known" ? units.value : [];
  const files = new Map<string, FilesRequest["files"][number]>();
  for (const file of SYSTEM_FILES) files.set(file.path, file);
  for (const { pid, name, credentialFiles } of named)
    for (const path of credentialFiles)
      files.set(path, {
        path,
        use: "read",
        what: `the environment of root's process ${pid} (${name}) names it as its credentials`,
      });
  for (const { name, environmentFiles } of loaded)
    for (const path of environmentFiles)
      files.set(path, {
        path,
        use: "read",
        what: `${name} has it as EnvironmentFile=, with AWS secrets in it`,
        onlyWithSecrets: true,
      });
  const requests = [...files.values()].map((file): FilesRequest => ({ base: "/", of: null, files: [file] }));
  return filesHere(tester, requests, false, "files", `files of the system, looked at as ${tester.name}`);
}

async function filesHere(
  tester: Tester,
  requests: readonly FilesRequest[],
  networkHomes: boolean,
  noun: string,
  source: string,
): Promise<Known<readonly UsableFile[]>> {
  const tasks = requests.map((request): Task => ({ kind: "files", networkHomes, request }));
  const result = await carriedOut(tasks, {
    as: tester,
    read: readFilesAnswer,
    limitMs: TASK_MS,
    mostHanging: MOST_HANGING,
  });
  const answered = result.answers.filter((one) => one !== null);
  const nameOf = (index: number) => {
    const request = requests[index];
    return request === undefined
      ? noun
      : request.of === null
        ? (request.files[0]?.path ?? "")
        : `the home ${request.base} of ${request.of}`;
  };
  return known(
    answered.flatMap(({ files }) => files),
    source,
    [...answered.flatMap(({ gaps }) => gaps), ...gapsOf(result, nameOf, noun)],
  );
}
