import { readFileSync } from "node:fs";
import type { Config } from "../config/schema.ts";
import { exemptOf, type StandingAccount } from "../firewall/platform-accounts.ts";
import { exemptUids } from "../firewall/spec.ts";
import { parseNameSwitch } from "../identity/nsswitch.ts";
import { findProgram, runProgram, SYSTEM_PATH } from "../platform/programs.ts";

/**
 * Warnings about accounts of a directory service (LDAP, SSSD) that have the uid of an exempt account. To the kernel, and so to the
 * firewall, both are one user, so whoever logs in as the directory's account has the instance role. No rule can distinguish them.
 */

/** Services of nsswitch.conf(5) whose accounts are this machine's own. */
const LOCAL = new Set(["files", "compat", "db", "systemd", "altfiles", "mymachines"]);
/** A directory that does not answer must not hold up setup. */
const TIMEOUT_MS = 2_000;

/** One sentence for each such account. A directory that does not answer is skipped. */
export async function directoryUidWarnings(
  config: Config,
  platformAccounts: readonly StandingAccount[],
): Promise<readonly string[]> {
  const services = directories(readNameSwitch());
  if (services.length === 0) return [];
  const { uids } = await exemptUids(config.exempt);
  const all = [...new Set([...uids, ...exemptOf(platformAccounts)])];
  return twinsOf(all, services, entryIn);
}

/**
 * The warnings, from what each service says of a uid. Pure but for `entry`.
 *
 * @param entry the fields of passwd(5) that a service has for a name or a uid; null where it has none, or does not answer.
 */
export async function twinsOf(
  uids: readonly number[],
  services: readonly string[],
  entry: (service: string, key: string) => Promise<readonly string[] | null>,
): Promise<readonly string[]> {
  const asked = uids.flatMap((uid) => services.map((service) => ({ uid, service })));
  const found = await Promise.all(
    asked.map(async ({ uid, service }) => {
      const name = (await entry(service, String(uid)))?.[0];
      // Without a local account of this uid, the exempt account is the directory's own.
      const local = name === undefined ? undefined : (await entry("files", String(uid)))?.[0];
      return name === undefined || local === undefined || local === name
        ? []
        : [
            `the directory service ${service} has an account ${quoted(name)} with uid ${uid}, which is that of the exempt account ` +
              `${quoted(local)}: whoever logs in as the first has the instance role; give it another uid, or have the directory's client ` +
              "take no uid below 1000 (sssd.conf: min_id = 1000)",
          ];
    }),
  );
  return found.flat();
}

/** Quotes a name in ASCII, because a directory's name may contain escape sequences for a terminal. */
const quoted = (name: string): string =>
  JSON.stringify(name).replaceAll(
    /[^ -~]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

/** The services that answer for accounts and are directories. */
export const directories = (nsswitch: string): readonly string[] => [
  ...new Set(
    parseNameSwitch(nsswitch)
      .passwd.map(({ name }) => name)
      .filter((name) => !LOCAL.has(name)),
  ),
];

function readNameSwitch(): string {
  try {
    return readFileSync("/etc/nsswitch.conf", "utf8");
  } catch {
    return "";
  }
}

/** Asks one service, by `getent -s SERVICE` (getent(1)), which takes a key of digits for a uid. */
async function entryIn(service: string, key: string): Promise<readonly string[] | null> {
  const getent = findProgram("getent", SYSTEM_PATH);
  if (getent === null) return null;
  const { exitCode, stdout } = await runProgram([getent, "-s", service, "passwd", key], {
    timeoutMs: TIMEOUT_MS,
  });
  const fields = (stdout.split("\n")[0] ?? "").split(":");
  return exitCode === 0 && fields[2] === key ? fields : null;
}
