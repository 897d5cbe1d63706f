import { readFileSync, statSync } from "node:fs";
import { ImdsProxyError } from "../errors.ts";
import type { Account, AccountDatabase } from "./accounts.ts";
import { parseSubordinateRanges } from "./shares.ts";

/**
 * NSS through getent(1): the C library's own calls would block the event loop for as long as LDAP takes.
 */

const TIMEOUT_MS = 5_000;
/** Exit code of getent where a key was not found (getent(1)). */
const NOT_FOUND = 2;
const FILES = ["/etc/passwd", "/etc/group", "/etc/subuid", "/etc/nsswitch.conf"];

async function getent(
  database: string,
  keys: readonly string[],
): Promise<{ found: boolean; lines: string[] }> {
  const child = Bun.spawn(["getent", database, ...keys], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "ignore",
    env: { PATH: "/usr/bin:/bin", LC_ALL: "C" },
    timeout: TIMEOUT_MS,
    killSignal: "SIGKILL",
  });
  const [output, exitCode] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  if (child.signalCode !== null) throw new Error(`getent ${database} did not answer`);
  if (exitCode !== 0 && exitCode !== NOT_FOUND) throw new Error(`getent ${database}: exit code ${exitCode}`);
  return { found: exitCode === 0, lines: output.split("\n").filter((line) => line !== "") };
}

/** One line of passwd(5): `name:password:uid:gid:gecos:home:shell`. */
function parsePasswd(line: string): { user: string; uid: number; gid: number } | null {
  const [user = "", , uid = "", gid = ""] = line.split(":");
  if (user === "" || !/^\d+$/.test(uid) || !/^\d+$/.test(gid)) return null;
  return { user, uid: Number(uid), gid: Number(gid) };
}

async function withGroups(user: string, gid: number): Promise<Account> {
  // `name gid gid …`, the name as it was asked for; it may hold spaces, so it is cut off by its length.
  const initgroups = await getent("initgroups", ["--", user]);
  const supplementary = (initgroups.lines[0] ?? "")
    .slice(user.length)
    .split(/\s+/)
    .filter((part) => /^\d+$/.test(part));
  const gids = [...new Set([String(gid), ...supplementary])];
  const wanted = new Set(gids);
  const groups: string[] = [];
  // `name:password:gid:members`, for each gid that has a name; the name may hold spaces.
  for (const line of (await getent("group", gids)).lines) {
    const [name = "", , found = ""] = line.split(":");
    // A key of digits could also be a group's name; only the gid counts.
    if (name !== "" && wanted.has(found)) groups.push(name);
  }
  return { user, groups };
}

/** The text of /etc/subuid at the first call, and where it has changed; else null. No file is an empty one. */
export function subordinateFile(): () => string | null {
  let seen: string | null = null;
  return () => {
    const { found, text } = readSubuid();
    if (found === seen) return null;
    seen = found;
    return text;
  };
}

function readSubuid(): { found: string; text: string } {
  try {
    const { ino, size, mtimeMs } = statSync("/etc/subuid");
    return { found: `${ino}:${size}:${mtimeMs}`, text: readFileSync("/etc/subuid", "utf8") };
  } catch {
    return { found: "-", text: "" };
  }
}

/** Every uid is asked by its number, and an answer for another number is no answer. */
export const getentDatabase: AccountDatabase = {
  async byUid(uid) {
    const { lines } = await getent("passwd", [String(uid)]);
    const entry = parsePasswd(lines[0] ?? "");
    return entry === null || entry.uid !== uid ? null : withGroups(entry.user, entry.gid);
  },
  async byName(user) {
    const entry = await accountByName(user);
    return entry === null ? null : withGroups(entry.user, entry.gid);
  },
  subordinateOwners(uid) {
    const owners = new Set<string>();
    for (const { owner, first, last } of parseSubordinateRanges(readSubuid().text)) {
      if (uid >= first && uid <= last) owners.add(owner);
    }
    return [...owners];
  },
  fingerprint: () =>
    FILES.map((file) => {
      try {
        const { ino, size, mtimeMs } = statSync(file);
        return `${ino}:${size}:${mtimeMs}`;
      } catch {
        return "-";
      }
    }).join(" "),
};

/** An account by its name, or null. A name of digits is not taken for a uid. */
async function accountByName(user: string): Promise<{ user: string; uid: number; gid: number } | null> {
  const { lines } = await getent("passwd", ["--", user]);
  const entry = parsePasswd(lines[0] ?? "");
  return entry?.user === user ? entry : null;
}

/**
 * The uid of an account by name.
 *
 * @throws ImdsProxyError `missing` where NSS does not answer.
 */
export async function uidOf(user: string): Promise<number | null> {
  try {
    return (await accountByName(user))?.uid ?? null;
  } catch (error) {
    throw new ImdsProxyError(
      "missing",
      `cannot look up the account ${JSON.stringify(user)}: ${error instanceof Error ? error.message : "unknown"}`,
      "getent must be there, and the account database must answer",
    );
  }
}
