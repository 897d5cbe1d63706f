import { readFileSync } from "node:fs";
import { ImdsProxyError } from "../errors.ts";
import { getent } from "../platform/getent.ts";
import { findProgram, runProgram } from "../platform/programs.ts";

/** Account names to uids, through NSS: accounts may be in LDAP or SSSD. */
export interface Accounts {
  /**
   * The uid of an account, or null where there is none of that name. Digits are taken for a name as well: the answer is the uid
   * of the account that has this name; null where there is none, or where its uid is the same number.
   */
  uidOf(name: string): Promise<number | null>;
  /**
   * The uid that /etc/passwd gives an account, or null where it has none of that name. No directory is asked: whoever makes
   * accounts there chooses their names. @throws ImdsProxyError `command-failed` where the file cannot be read.
   */
  localUidOf(name: string): number | null;
}

/** A directory service that does not answer must not hold up the rules at boot. */
const ID_TIMEOUT_MS = 5_000;

/** The system's accounts, by getent(1). */
export const systemAccounts: Accounts = {
  async uidOf(name) {
    if (/^\d+$/.test(name)) return uidOfDigits(name);
    const uid = (await getent("passwd", name))?.[2] ?? "";
    return /^\d+$/.test(uid) ? Number(uid) : null;
  },
  localUidOf(name) {
    try {
      return uidInPasswd(readFileSync("/etc/passwd", "utf8"), name);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      throw new ImdsProxyError(
        "command-failed",
        `cannot read /etc/passwd for the account ${name}: ${code}`,
        "see that the file is there and readable: ls -l /etc/passwd",
      );
    }
  },
};

/** The lines of passwd(5) or shadow(5) as their fields, comments and empty lines left out. Pure. */
export const accountLines = (text: string): readonly (readonly string[])[] =>
  text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => line.split(":"));

/**
 * The uid of the first entry of that name, as the C library takes it; null where there is none, or where its uid is no number. An
 * entry that begins with `+` or `-` stands for accounts of a directory (nsswitch.conf(5), `compat`), and does not count. Pure.
 */
export function uidInPasswd(text: string, name: string): number | null {
  const uid = accountLines(text).find(([other]) => other === name)?.[2] ?? "";
  return /^\d+$/.test(uid) ? Number(uid) : null;
}

/** getent(1) takes digits for a uid; id(1) asks for a name first, and prints the number itself where there is none. */
async function uidOfDigits(name: string): Promise<number | null> {
  const id = findProgram("id");
  if (id === null)
    throw new ImdsProxyError(
      "missing",
      `cannot look up an account named ${name}: there is no id`,
      "install coreutils, or name the account by letters",
    );
  const { exitCode, stdout, stderr } = await runProgram([id, "-u", "--", name], { timeoutMs: ID_TIMEOUT_MS });
  const uid = stdout.trim();
  if (exitCode === 0 && /^\d+$/.test(uid)) return Number(uid) === Number(name) ? null : Number(uid);
  // "no such user": neither a name nor, to id, a uid that somebody has.
  if (exitCode === 1 && /no such user/i.test(stderr)) return null;
  throw new ImdsProxyError(
    "command-failed",
    `cannot look up an account named ${name}: id ended with ${exitCode} ${stderr.trim()}`.trim(),
    "see whether the account database answers: getent passwd; systemctl status sssd, nslcd or winbind",
  );
}

/**
 * Adds a stale-if-error cache: while a look-up fails, an account keeps its last uid, so that a directory that hangs, or a node
 * without a free process, does not end an exemption. The answer that there is no such account does end it.
 */
export function lastingAccounts(accounts: Accounts): Accounts {
  const known = new Map<string, number>();
  const localKnown = new Map<string, number>();
  const keep = (of: Map<string, number>, name: string, uid: number | null): number | null => {
    if (uid === null) of.delete(name);
    else of.set(name, uid);
    return uid;
  };
  const last = (of: Map<string, number>, name: string, error: unknown): number => {
    const uid = of.get(name);
    if (uid === undefined) throw error;
    return uid;
  };
  return {
    async uidOf(name) {
      try {
        return keep(known, name, await accounts.uidOf(name));
      } catch (error) {
        return last(known, name, error);
      }
    },
    localUidOf(name) {
      try {
        return keep(localKnown, name, accounts.localUidOf(name));
      } catch (error) {
        return last(localKnown, name, error);
      }
    },
  };
}
