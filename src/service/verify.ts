import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import type { Config } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import type { StandingAccount } from "../firewall/platform-accounts.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import { UNKNOWN_IDENTITY } from "../identity/types.ts";
import { sleep } from "../platform/clock.ts";
import { getent } from "../platform/getent.ts";
import { compileRules } from "../rules/decide.ts";
import type { Problem } from "../telemetry/health.ts";
import { runCommand } from "./command.ts";
import { type Probe, probe } from "./probe.ts";
import { readProbe } from "./probe-answer.ts";
import type { ProxyHealth } from "./proxy-health.ts";
import { saidBy } from "./said-by.ts";
import { spawnAs } from "./spawn-as.ts";

/**
 * Verifies the installation, as an ordinary user and as root: the user must get the role of the configuration and nothing of the
 * instance role; root must keep the instance role.
 */

/** One property, and whether it holds. */
export interface Finding {
  /**
   * `role`: an account has the role that it should have. `instance-role`: the user has nothing of the instance role through the proxy.
   * `direct`: the user has no way past the proxy.
   */
  readonly kind: "role" | "instance-role" | "direct";
  readonly what: string;
  readonly ok: boolean;
  /** What was found. */
  readonly found: string;
}

/** The account to verify as. */
export interface Tester {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly string[];
}

/**
 * @param flag the flag by which another account is named.
 * @throws ImdsProxyError `usage` where there is no such account, or it is one that keeps the instance role.
 */
export async function findTester(
  name: string,
  config: Config,
  exemptUids: readonly number[] = [],
  flag: "--verify-as" | "--as" = "--verify-as",
): Promise<Tester> {
  const account = await accountOf(name);
  if (account === null) {
    throw new ImdsProxyError(
      "usage",
      `no account ${name} to verify as`,
      `name an ordinary user with ${flag} USER`,
    );
  }
  const { uid } = account;
  const names = [name, String(uid)];
  if (uid === 0 || exemptUids.includes(uid) || names.some((one) => config.exempt.includes(one))) {
    throw new ImdsProxyError(
      "usage",
      `cannot verify as ${name}, who is exempt and keeps the instance role`,
      `name an ordinary user with ${flag} USER`,
    );
  }
  return account;
}

/**
 * The exempt accounts that the node has, and the uids that are exempt by their number, such as a container's; root aside. Each must
 * keep the instance role.
 */
export async function findExempt(
  config: Config,
  platformAccounts: readonly StandingAccount[],
): Promise<readonly Tester[]> {
  const isNumber = (name: string) => /^\d+$/.test(name);
  const names = new Set([
    ...config.exempt.filter((name) => name !== "root" && !isNumber(name)),
    ...platformAccounts.flatMap(({ name, standing }) => (standing.kind === "exempt" ? [name] : [])),
  ]);
  const accounts = await Promise.all([...names].map(accountOf));
  const numbers = [...new Set(config.exempt.filter(isNumber).map(Number))].map((uid) => ({
    name: `uid ${uid}`,
    uid,
    gid: uid,
    groups: [],
  }));
  return [...accounts, ...numbers].flatMap((account) =>
    account === null || account.uid === 0 ? [] : [account],
  );
}

/** An account by its name; null where the node knows none. */
async function accountOf(name: string): Promise<Tester | null> {
  const fields = await getent("passwd", name);
  if (fields === null) return null;
  const groups = await runCommand(["id", "-Gnz", name]);
  return {
    name,
    uid: Number(fields[2]),
    gid: Number(fields[3]),
    groups: groups.stdout.split("\0").filter((group) => group !== ""),
  };
}

/** The role that the configuration gives the tester, by its name; null for a refusal. */
export function expectedRole(config: Config, tester: Tester): string | null {
  const cgroup = /^0::(.*)$/m.exec(readFileSync("/proc/self/cgroup", "utf8"))?.[1] ?? null;
  const decision = compileRules(config, { hostname: hostname() }).decide(
    { ...UNKNOWN_IDENTITY, uid: tester.uid, user: tester.name, groups: tester.groups, cgroup },
    "i-00000000000000000",
    "REGION",
  );
  return decision.kind === "role" ? decision.roleArn.replace(/^.*\//, "") : null;
}

/** What an exempt account got. */
export interface ExemptProbe {
  readonly name: string;
  readonly probe: Probe;
}

/** Judges root or an exempt account where systemd has locked the metadata address: only the proxy reaches it then (imds-lock.ts). */
const refusedByLock = (name: string, probe: Probe): Finding => ({
  kind: "role",
  what: `${name} has no way to the metadata address, as systemd.imds.network=locked says`,
  ok: probe.token === 0 && probe.list.status === 0,
  found: probe.list.status === 0 ? "no way" : `the role list answered ${statusText(probe.list.status)}`,
});

/**
 * Judges what the probes found. Pure.
 *
 * @param locked what the upstream gave when it was asked with the lock's mark; null where the address is not locked.
 */
export function judge(
  expected: string | null,
  tester: Tester,
  user: Probe,
  root: Probe,
  exempt: readonly ExemptProbe[] = [],
  locked: Probe | null = null,
): readonly Finding[] {
  const instance = locked ?? root;
  const rootRole = instance.list.status === 200 ? instance.list.text.trim() : null;
  const findings: Finding[] = [
    {
      kind: "role",
      what: locked === null ? "root keeps the instance role" : "the upstream has the instance role",
      ok: instance.credentials.code === "Success" && instance.credentials.digest !== null,
      found:
        rootRole === null
          ? `the role list answered ${statusText(instance.list.status)}`
          : `${rootRole}, ${instance.credentials.code ?? statusText(instance.credentials.status)}`,
    },
  ];
  if (locked !== null) findings.push(refusedByLock("root", root));
  for (const { name, probe } of exempt) {
    if (locked !== null) {
      findings.push(refusedByLock(name, probe));
      continue;
    }
    findings.push({
      kind: "role",
      what: `${name}, who is exempt, keeps the instance role`,
      ok: rootRole !== null && probe.list.text.trim() === rootRole && probe.credentials.code === "Success",
      found:
        probe.list.status === 200
          ? `${probe.list.text.trim()}, ${probe.credentials.code ?? statusText(probe.credentials.status)}`
          : `the role list answered ${statusText(probe.list.status)}`,
    });
  }
  if (expected === null) {
    findings.push({
      kind: "role",
      what: `${tester.name} is refused, as the configuration says`,
      ok: user.list.status >= 400 && user.credentials.digest === null,
      found: `the role list answered ${statusText(user.list.status)}`,
    });
  } else {
    findings.push({
      kind: "role",
      what: `${tester.name} gets ${expected}`,
      ok: user.list.text.trim() === expected && user.credentials.code === "Success",
      found:
        user.list.status === 200
          ? `${user.list.text.trim()}, ${user.credentials.code ?? statusText(user.credentials.status)}`
          : `the role list answered ${statusText(user.list.status)}`,
    });
  }
  findings.push({
    kind: "instance-role",
    what: `${tester.name} does not get the instance role's credentials`,
    ok: user.credentials.digest === null || user.credentials.digest !== instance.credentials.digest,
    found: user.credentials.digest === null ? "no credentials" : "credentials of another session",
  });
  if (user.forbidden !== null && rootRole !== expected) {
    findings.push({
      kind: "instance-role",
      what: `${tester.name} cannot get ${rootRole} by its name`,
      ok: user.forbidden >= 400,
      found: statusText(user.forbidden),
    });
  }
  for (const { endpoint, result, detail } of user.direct) {
    findings.push({
      kind: "direct",
      what: `${tester.name} cannot reach ${endpointText(endpoint)}`,
      ok: result !== "open",
      found: result === "open" ? detail : "closed",
    });
  }
  return findings;
}

const statusText = (status: number): string => (status === 0 ? "nothing" : `status ${status}`);

/** The last findings, and where one does not hold, the problems that the proxy reports, which may be the cause. */
export interface Verification {
  readonly findings: readonly Finding[];
  readonly problems: readonly Pick<Problem, "what" | "since" | "remedy">[];
}

export interface VerifyOptions {
  /** Exempt accounts, each of which must keep the instance role. */
  readonly exempt: readonly Tester[];
  /** Asks the upstream for the instance role where systemd has locked the metadata address; null where it has not. */
  readonly locked: (() => Promise<Probe>) | null;
  /** Milliseconds to go on trying: the agent or STS may answer only some time after the service has started. */
  readonly waitMs: number;
  /** What the proxy says of itself. */
  readonly health: () => Promise<ProxyHealth>;
  /** Called with a line for the person while it waits. */
  readonly say: (line: string) => void;
}

/** Milliseconds between two tries, and between two lines that say why it waits. */
const AGAIN_MS = 1_000;
const SAY_MS = 5_000;

/**
 * Tries until everything holds, for as long as `waitMs`. Ends before that where waiting does not help: STS denies the role,
 * or the configuration is not what runs.
 *
 * @param direct where the upstream is, and wherever else it could be.
 */
export async function verify(
  config: Config,
  tester: Tester,
  direct: readonly Endpoint[],
  { exempt, locked, waitMs, health, say }: VerifyOptions,
): Promise<Verification> {
  const expected = expectedRole(config, tester);
  for (let waitedMs = 0; ; waitedMs += AGAIN_MS) {
    const root = await probe(null, []);
    const instance = locked === null ? null : await locked();
    const { list } = instance ?? root;
    const rootRole = list.status === 200 && list.text !== "" ? list.text.trim() : null;
    const user = await probeAs(tester, rootRole, direct);
    const ofExempt: ExemptProbe[] = [];
    for (const account of exempt)
      ofExempt.push({ name: account.name, probe: await probeAs(account, null, []) });
    const findings = judge(expected, tester, user, root, ofExempt, instance);
    if (findings.every(({ ok }) => ok)) return { findings, problems: [] };
    const told = await health();
    if (waitedMs >= waitMs || isLasting(told)) return { findings, problems: reasons(told) };
    if (waitedMs % SAY_MS === 0) {
      const [why] = reasons(told);
      const failed = findings.find(({ ok }) => !ok);
      const what = why?.what ?? `not yet: ${failed?.what} (${failed?.found})`;
      say(`waiting, ${Math.ceil((waitMs - waitedMs) / 1000)} s at most: ${what}`);
    }
    await sleep(AGAIN_MS);
  }
}

const isLasting = (health: ProxyHealth): boolean =>
  health.kind === "answered" && health.problems.some(({ lasting }) => lasting);

function reasons(health: ProxyHealth): readonly Pick<Problem, "what" | "since" | "remedy">[] {
  if (health.kind === "answered") return health.problems;
  if (health.kind === "silent") return [{ ...health, since: "now" }];
  return [];
}

/** The most characters of a probe's output that are read; usual are a few thousand. */
const MOST_LETTERS = 1_000_000;
/** The time limit of a probe in milliseconds: five requests of at most 5 s, and connections of at most 2 s, on a busy machine. */
const PROBE_MS = 120_000;

/**
 * `imdsproxy service probe` as the tester.
 *
 * @throws ImdsProxyError `command-failed` where its output is no probe, or where it does not end in time.
 */
export async function probeAs(
  tester: Tester,
  forbiddenRole: string | null,
  direct: readonly Endpoint[],
): Promise<Probe> {
  const argv = ["service", "probe"];
  if (direct.length > 0) argv.push("--direct", direct.map(endpointText).join(","));
  if (forbiddenRole !== null) argv.push("--forbidden-role", forbiddenRole);
  const said = await saidBy(spawnAs(tester, argv), { limitMs: PROBE_MS, mostLetters: MOST_LETTERS });
  const read = readProbe(said.text, direct);
  if (read !== null) return read;
  if (said.late) {
    throw new ImdsProxyError(
      "command-failed",
      `the check as ${tester.name} did not end within ${PROBE_MS / 1000} s`,
      `another process of ${tester.name} may have stopped it: name another user`,
    );
  }
  throw new ImdsProxyError(
    "command-failed",
    `the check as ${tester.name} ended with ${said.exitCode ?? "a signal"}: ${said.complaint.trim() || "no output that can be read"}`,
    `${process.execPath} must be executable for every user`,
  );
}
