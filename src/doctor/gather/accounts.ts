import { readFileSync } from "node:fs";
import { ImdsProxyError } from "../../errors.ts";
import { parseSubordinateRanges } from "../../identity/shares.ts";
import { getent } from "../../platform/getent.ts";
import { findProgram, runProgram, SYSTEM_PATH } from "../../platform/programs.ts";
import { textIfAny } from "../../platform/text-file.ts";
import { LOG_GROUPS } from "../checks/log-readers.ts";
import { CAPTURE_GROUPS } from "../checks/packet-capture.ts";
import { ROOT_GROUPS } from "../checks/root-groups.ts";
import {
  type GroupMembers,
  type Known,
  known,
  type LocalAccount,
  type SudoGrant,
  unknown,
} from "../types.ts";

/** Accounts, groups and what sudo lets users do. An edge: reads the account files, runs getent and sudo. */

const lines = (text: string): string[][] =>
  text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => line.split(":"));

/** Reads passwd(5) and shadow(5). Pure. */
export function parseAccounts(passwd: string, shadow: string): LocalAccount[] {
  const passwords = new Map(lines(shadow).map(([name = "", password = ""]) => [name, password]));
  return lines(passwd)
    .filter((fields) => fields.length === 7 && /^\d+$/.test(fields[2] ?? ""))
    .map(([name = "", , uid, gid, , home = "", shell = ""]) => {
      const password = passwords.get(name);
      return {
        name,
        uid: Number(uid),
        gid: Number(gid),
        home,
        shell,
        // shadow(5): a field that begins with ! or * is no crypt(3) result; one that is empty lets anybody in.
        locked: password === undefined ? null : /^[!*]/.test(password),
      };
    });
}

export function accountsHere(): Known<readonly LocalAccount[]> {
  const source = "/etc/passwd, /etc/shadow";
  try {
    return known(
      parseAccounts(readFileSync("/etc/passwd", "utf8"), readFileSync("/etc/shadow", "utf8")),
      source,
    );
  } catch (error) {
    return unknown((error as NodeJS.ErrnoException).code ?? "cannot be read", source);
  }
}

/** The limit of one look-up. Groups are looked up in parallel, so that a directory that hangs costs it once. */
const GROUP_MS = 10_000;

/** Everybody who is in a group that gives power: its listed members, and accounts whose own group it is. */
export async function groupsHere(accounts: readonly LocalAccount[]): Promise<Known<readonly GroupMembers[]>> {
  const names = [...Object.keys(ROOT_GROUPS), ...LOG_GROUPS, ...CAPTURE_GROUPS];
  const gaps: string[] = [];
  const found = await Promise.all(
    names.map(async (group): Promise<GroupMembers | null> => {
      try {
        const fields = await getent("group", group, GROUP_MS);
        if (fields === null) return null;
        const listed = (fields[3] ?? "").split(",").filter((name) => name !== "");
        const own = accounts.filter(({ gid }) => gid === Number(fields[2])).map(({ name }) => name);
        return { group, members: [...new Set([...listed, ...own])].sort() };
      } catch (error) {
        if (!(error instanceof ImdsProxyError)) throw error;
        gaps.push(`members of ${group}: ${error.problem}`);
        return null;
      }
    }),
  );
  return known(
    found.filter((one) => one !== null),
    "getent group",
    gaps,
  );
}

/** The most users about whom sudo, or the account database, is asked. */
const MOST_USERS = 100;

/**
 * The uids whose names are asked for, at most {@link MOST_USERS}. Those of subordinate ranges come last: by newuidmap(1) a user can
 * have processes with thousands of them, which must not displace the accounts of a directory. Pure.
 *
 * @param subordinateUids the text of subuid(5).
 */
export function uidsToAsk(uids: readonly number[], subordinateUids: string): readonly number[] {
  const ranges = parseSubordinateRanges(subordinateUids);
  const isSubordinate = (uid: number) => ranges.some(({ first, last }) => first <= uid && uid <= last);
  return [...uids.filter((uid) => !isSubordinate(uid)), ...uids.filter(isSubordinate)].slice(0, MOST_USERS);
}

/** Accounts that are not in /etc/passwd and have processes, and what was not asked. */
export interface OtherAccounts {
  readonly accounts: readonly { readonly name: string; readonly home: string }[];
  readonly gaps: readonly string[];
}

/** Names of the uids that have processes and are no local account's. */
export async function namesOf(uids: readonly number[]): Promise<OtherAccounts> {
  const program = findProgram("getent", SYSTEM_PATH);
  if (program === null) return { accounts: [], gaps: ["getent passwd: there is no getent on this node"] };
  const asked = uidsToAsk(uids, textIfAny("/etc/subuid") ?? "");
  const found = await Promise.all(
    asked.map(async (uid) => {
      const { exitCode, stdout } = await runProgram([program, "passwd", "--", String(uid)], {
        timeoutMs: GROUP_MS,
      });
      const [name = "", , number, , , home = ""] = (stdout.split("\n")[0] ?? "").split(":");
      return exitCode === 0 && Number(number) === uid && name !== "" ? { name, home } : null;
    }),
  );
  return {
    accounts: found.filter((one) => one !== null),
    gaps:
      uids.length > asked.length
        ? [`getent passwd: only for ${asked.length} of ${uids.length} uids that have processes`]
        : [],
  };
}

const SUDO_MS = 15_000;
/** How many run at once. */
const AT_ONCE = 4;

/**
 * Reads what `sudo -l -U USER` prints: what the user may run as root. Null where that is nothing. Pure.
 *
 * @example "    (ALL : ALL) NOPASSWD: ALL"
 */
export function parseSudo(text: string): Omit<SudoGrant, "user"> | null {
  const after = text.split(/^User .* may run the following commands on .*:$/m)[1];
  if (after === undefined) return null;
  // sudo goes on with a long rule in a line that is indented further.
  const rules = after.replaceAll(/\n {8,}/g, " ").split("\n");
  const free = /^ *(?:Matching Defaults|Defaults).*|!authenticate/m.test(text) && /!authenticate/.test(text);
  let grant: Omit<SudoGrant, "user"> | null = null;
  for (const rule of rules) {
    const [, runAs, rest] = /^\s+\(([^)]*)\)\s+(.*)$/.exec(rule) ?? [];
    if (runAs === undefined || rest === undefined) continue;
    const users = (runAs.split(":")[0] ?? "").split(",").map((user) => user.trim());
    if (!users.some((user) => user === "root" || user === "ALL" || user === "#0")) continue;
    // Tags hold for the commands behind them, until the opposite one.
    let passwordless = free;
    for (const part of rest.split(/,\s*/)) {
      if (/\bNOPASSWD:/.test(part)) passwordless = true;
      if (/(?:^|\s)PASSWD:/.test(part)) passwordless = free;
      const command = part.replaceAll(/\b[A-Z_]+:\s*/g, "").trim();
      if (command === "" || command.startsWith("!")) continue;
      const all = command === "ALL";
      const next = { all, passwordless };
      if (
        grant === null ||
        Number(all) + Number(passwordless) > Number(grant.all) + Number(grant.passwordless)
      )
        grant = next;
    }
  }
  return grant;
}

/**
 * What sudo lets these users do as root. Leaves out users who need their password for it, because of a group: `root-groups` reports them.
 *
 * @param members users whom a group of `root-groups` names already.
 * @param unnamed why the names of some users with processes are not known; these are missing in `users`.
 */
export async function sudoHere(
  users: readonly string[],
  members: ReadonlySet<string>,
  unnamed: readonly string[],
): Promise<Known<readonly SudoGrant[]>> {
  const source = "sudo -n -l -U USER";
  const sudo = findProgram("sudo", SYSTEM_PATH);
  if (sudo === null) return known([], `${source} (there is no sudo on this node)`);
  const asked = users.slice(0, MOST_USERS);
  const gaps = [...unnamed];
  if (users.length > asked.length)
    gaps.push(`${source}: only for the first ${MOST_USERS} of ${users.length} users`);
  const grants: SudoGrant[] = [];
  const waiting = [...asked];
  const work = async () => {
    for (let user = waiting.shift(); user !== undefined; user = waiting.shift()) {
      const { exitCode, stdout, stderr } = await runProgram([sudo, "-n", "-l", "-U", user], {
        timeoutMs: SUDO_MS,
        path: SYSTEM_PATH,
      });
      const grant = parseSudo(stdout);
      if (grant !== null) {
        const isGroups = members.has(user) && !grant.passwordless;
        if ((grant.all || grant.passwordless) && !isGroups) grants.push({ user, ...grant });
      } else if (exitCode !== 0 && !/not allowed to run sudo/.test(stdout + stderr)) {
        gaps.push(`sudo -n -l -U ${user} ended with ${exitCode}: ${stderr.trim().split("\n")[0] ?? ""}`);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return known(
    grants.sort((a, b) => (a.user < b.user ? -1 : 1)),
    source,
    gaps,
  );
}
