import { ImdsProxyError } from "../errors.ts";
import { findProgram, runProgram } from "./iptables.ts";

/** Account names to uids, through NSS: accounts may be in LDAP or SSSD. */
export interface Accounts {
  /** The uid of an account, or null where there is none of that name. */
  uidOf(name: string): Promise<number | null>;
}

/** A directory service that does not answer must not hold up the rules at boot. */
const GETENT_TIMEOUT_MS = 5_000;
/** getent(1), "EXIT STATUS": a key could not be found. */
const NOT_FOUND = 2;

/** The system's accounts, by getent(1). */
export const systemAccounts: Accounts = {
  async uidOf(name) {
    const getent = findProgram("getent");
    if (getent === null) {
      throw new ImdsProxyError("missing", `cannot look up the account ${name}: there is no getent`);
    }
    const { exitCode, stdout, stderr } = await runProgram([getent, "passwd", "--", name], GETENT_TIMEOUT_MS);
    if (exitCode === NOT_FOUND) return null;
    // getent takes a number for a uid: the account must be the one that was asked for.
    const [found, , uid] = (stdout.split("\n")[0] ?? "").split(":");
    if (exitCode === 0 && found === name && /^\d+$/.test(uid ?? "")) return Number(uid);
    if (exitCode === 0) return null;
    throw new ImdsProxyError(
      "command-failed",
      `cannot look up the account ${name}: getent ended with ${exitCode} ${stderr.trim()}`.trim(),
    );
  },
};
