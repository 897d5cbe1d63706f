import { ImdsProxyError } from "../errors.ts";
import { findProgram, runProgram } from "./programs.ts";

/** A directory service that does not answer must not hold up the rules at boot. */
const TIMEOUT_MS = 5_000;
/** getent(1), "EXIT STATUS": a key could not be found. */
const NOT_FOUND = 2;

/**
 * One entry of passwd(5) or group(5), by getent(1), so that it may come from LDAP or SSSD.
 *
 * @param timeoutMs default 5,000.
 * @returns its fields; null where there is none of that name.
 * @throws ImdsProxyError `missing`, `command-failed` where the look-up fails.
 */
export async function getent(
  database: "passwd" | "group",
  name: string,
  timeoutMs: number = TIMEOUT_MS,
): Promise<readonly string[] | null> {
  const what = database === "passwd" ? "account" : "group";
  const program = findProgram("getent");
  if (program === null) {
    throw new ImdsProxyError(
      "missing",
      `cannot look up the ${what} ${name}: there is no getent`,
      "install it (Debian, Ubuntu: libc-bin; Amazon Linux: glibc-common)",
    );
  }
  const { exitCode, stdout, stderr } = await runProgram([program, database, "--", name], { timeoutMs });
  if (exitCode === NOT_FOUND) return null;
  if (exitCode !== 0) {
    throw new ImdsProxyError(
      "command-failed",
      `cannot look up the ${what} ${name}: getent ended with ${exitCode} ${stderr.trim()}`.trim(),
      "see whether the account database answers: systemctl status sssd, nslcd or winbind",
    );
  }
  const fields = (stdout.split("\n")[0] ?? "").split(":");
  // getent takes digits for an id, so the answer must have the name that was asked for.
  return fields[0] === name ? fields : null;
}
