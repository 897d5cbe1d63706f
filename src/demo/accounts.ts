/** The simulated node's accounts, as the text of /etc/passwd and its companions. Pure. */

/** An account of the simulated node. */
export interface NodeUser {
  readonly name: string;
  readonly uid: number;
  /** Default: a group of the same name and number as the account. */
  readonly gid?: number;
  /** Names of further groups, made where the machine has none of that name. */
  readonly groups?: readonly string[];
  /** First and count of a range in /etc/subuid and /etc/subgid. */
  readonly subordinate?: readonly [first: number, count: number];
}

/** The files as they are on the machine, or as they shall be on the node. */
export interface AccountFiles {
  readonly passwd: string;
  readonly group: string;
  readonly subuid: string;
  readonly subgid: string;
}

/** The home of an account, on the node's own file system, which goes away with the node. */
export const homeOf = (user: string): string => `/run/home/${user}`;

/** The first number of the groups that are made for names in `groups`. */
const FIRST_EXTRA_GID = 47_000;

/** Adds `users` to the machine's accounts, in place of accounts of the same name or number. */
export function withUsers(files: AccountFiles, users: readonly NodeUser[]): AccountFiles {
  const names = new Set(users.map(({ name }) => name));
  const uids = new Set(users.map(({ uid }) => String(uid)));
  const gids = new Set(users.map(({ uid, gid }) => String(gid ?? uid)));
  const keep = (text: string, numbers: ReadonlySet<string>) =>
    linesOf(text).filter((line) => {
      const [name = "", , number = ""] = line.split(":");
      return !names.has(name) && !numbers.has(number);
    });

  const members = new Map<string, string[]>();
  for (const { name, groups = [] } of users) {
    for (const group of groups) members.set(group, [...(members.get(group) ?? []), name]);
  }
  const group = keep(files.group, gids).map((line) => {
    const [name = "", password = "", gid = "", present = ""] = line.split(":");
    const added = members.get(name);
    if (added === undefined) return line;
    members.delete(name);
    return [
      name,
      password,
      gid,
      [...present.split(",").filter((member) => member !== ""), ...added].join(","),
    ].join(":");
  });
  const own = users.map(({ name, uid, gid = uid }) => `${name}:x:${gid}:`);
  const made = [...members].map(
    ([name, added], index) => `${name}:x:${FIRST_EXTRA_GID + index}:${added.join(",")}`,
  );
  const ranges = users.flatMap(({ name, subordinate }) =>
    subordinate === undefined ? [] : [`${name}:${subordinate[0]}:${subordinate[1]}`],
  );
  const withoutOurs = (text: string) => linesOf(text).filter((line) => !names.has(line.split(":")[0] ?? ""));
  return {
    passwd: textOf([
      ...keep(files.passwd, uids),
      ...users.map(({ name, uid, gid = uid }) => `${name}:x:${uid}:${gid}:${name}:${homeOf(name)}:/bin/sh`),
    ]),
    group: textOf([...group, ...own, ...made]),
    subuid: textOf([...withoutOurs(files.subuid), ...ranges]),
    subgid: textOf([...withoutOurs(files.subgid), ...ranges]),
  };
}

const linesOf = (text: string): string[] => text.split("\n").filter((line) => line !== "");
const textOf = (lines: readonly string[]): string => lines.map((line) => `${line}\n`).join("");
