import { defineCommand } from "citty";
import { loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import { exemptionsHere } from "../firewall/exempt.ts";
import type { Accounts } from "../identity/accounts.ts";
import { difference, differenceText, type Subject } from "../observe/diff.ts";
import { placeText } from "../observe/place.ts";
import { readObserved } from "../observe/record.ts";
import { programText, userText } from "../observe/report.ts";
import { runProgram } from "../platform/programs.ts";
import { compileRules } from "../rules/decide.ts";
import { identityOfGiven, nameOf } from "../rules/policy-tests.ts";
import { systemNames } from "../wiring/identities.ts";
import { counted, jsonArg } from "./common.ts";
import { fittedReport, sayBeside } from "./say.ts";
import { jsonText, widthOf } from "./terminal.ts";

/** The most accounts that are compared; a directory may list more. */
const MOST_ACCOUNTS = 10_000;
const LIST_MS = 30_000;
/** The cgroups that `explain` assumes: of a login, and of a job as slurmstepd makes it. */
const LOGIN = "/user.slice";
const JOB = "/system.slice/slurmstepd.scope/job_1/step_0/user/task_0";

export default defineCommand({
  meta: {
    name: "diff",
    description: "Show whose outcome differs between two configurations; exit 0 in either case",
  },
  args: {
    old: { type: "positional", description: "The old configuration", required: true },
    new: { type: "positional", description: "The new configuration", required: true },
    against: {
      type: "string",
      description:
        "Compare for the callers in this file of imdsproxy observe; default: for the accounts that getent passwd lists, which are " +
        "not those of a directory that lists none",
      valueHint: "FILE",
    },
    json: jsonArg,
  },
  async run({ args }) {
    const before = await side(loadConfig({ path: args.old }));
    const after = await side(loadConfig({ path: args.new }));
    const configs = [before.config, after.config];
    const accounts = args.against === undefined ? accountUids(await listedAccounts()) : null;
    const seen =
      accounts === null
        ? observedSubjects(args.against ?? "")
        : await subjectsOfAccounts(accounts.uids, configs);
    const leftOut = accounts?.leftOut ?? 0;
    if (leftOut > 0) sayBeside(`warning: ${leftOutText(leftOut)}`);
    const subjects = [...seen, ...testedSubjects(configs)];
    const found = difference(before, after, subjects);
    if (args.json) {
      const against = args.against ?? null;
      console.log(jsonText({ against, leftOut, ...found }));
    } else
      console.log(
        fittedReport(
          differenceText(found, args.against === undefined ? "accounts and tests" : "callers and tests"),
          widthOf(process.stdout),
        ),
      );
  },
});

const side = async (config: Config) => ({ config, exemptions: await exemptionsHere(config) });

/** The callers in the tests of the configurations, each once. */
function testedSubjects(configs: readonly Config[]): Subject[] {
  const subjects = new Map<string, Subject>();
  for (const [index, test] of configs.flatMap(({ tests }) => tests ?? []).entries()) {
    const identity = identityOfGiven(test.given);
    if (typeof identity === "string") continue;
    const { uid, container, user, groups, cgroup } = identity;
    subjects.set(JSON.stringify(identity), {
      who: nameOf(test, index),
      where: "a test",
      uid,
      container,
      account: container === null ? { user, groups, subordinate: false } : null,
      cgroup,
      categories: [],
    });
  }
  return [...subjects.values()];
}

function observedSubjects(path: string): Subject[] {
  const observed = readObserved(path);
  if (observed === null) {
    throw new ImdsProxyError(
      "config",
      `config diff: there is no ${path}`,
      "make one: imdsproxy observe --for 24h --file FILE",
    );
  }
  return observed.callers.map((caller) => ({
    who: userText(caller),
    where: [placeText(caller.place), programText(caller)].join(", "),
    ...caller,
  }));
}

const leftOutText = (count: number): string =>
  `${counted(count, "account")} of those that getent passwd lists were not compared: only the first ${MOST_ACCOUNTS} are; ` +
  "compare by a file of imdsproxy observe: --against FILE";

/** What getent(1) lists, in the form of passwd(5). @throws ImdsProxyError `unhealthy` where it fails. */
async function listedAccounts(): Promise<string> {
  const { exitCode, stdout } = await runProgram(["getent", "passwd"], { timeoutMs: LIST_MS });
  if (exitCode !== 0) {
    throw new ImdsProxyError(
      "unhealthy",
      `config diff: the node's accounts cannot be listed: getent passwd ended with ${exitCode}`,
      "look at the services in /etc/nsswitch.conf, or compare by a file of imdsproxy observe: --against FILE",
    );
  }
  return stdout;
}

/** The uids in a text of passwd(5), each once, and how many were left out because there are too many. Pure. */
export function accountUids(passwd: string): { readonly uids: readonly number[]; readonly leftOut: number } {
  const all = new Set(
    passwd
      .split("\n")
      .map((line) => line.split(":")[2] ?? "")
      .filter((uid) => /^\d{1,10}$/.test(uid))
      .map(Number),
  );
  return { uids: [...all].slice(0, MOST_ACCOUNTS), leftOut: Math.max(0, all.size - MOST_ACCOUNTS) };
}

/** These accounts at a login, and inside of a Slurm job where a configuration looks at cgroups. */
async function subjectsOfAccounts(uids: readonly number[], configs: readonly Config[]): Promise<Subject[]> {
  const situations: [where: string, cgroup: string][] = [["login", LOGIN]];
  if (configs.some((config) => compileRules(config).needs.cgroup)) situations.push(["Slurm job", JOB]);
  const { accounts, close } = systemNames();
  try {
    const subjects: Subject[] = [];
    for (const uid of uids) subjects.push(...(await of(uid, accounts, situations)));
    return subjects;
  } finally {
    close();
  }
}

async function of(
  uid: number,
  accounts: Accounts,
  situations: readonly (readonly [where: string, cgroup: string])[],
): Promise<Subject[]> {
  const account = await accounts.resolve(uid);
  return situations.map(([where, cgroup]) => ({
    who: account.user ?? `uid ${uid}`,
    where,
    uid,
    container: null,
    account,
    cgroup,
    categories: [],
  }));
}
