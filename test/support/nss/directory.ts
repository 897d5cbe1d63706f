import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** How the directory behaves; see directory.c. */
export type DirectoryMode = "up" | "away" | "hang" | "crash" | "again" | "groups-away";

/**
 * Compiles the module of a service.
 *
 * @param options.service the name in nsswitch.conf.
 * @param options.directory where the module finds its mode and accounts.
 * @param options.withoutInitgroups as modules are that know groups one by one only.
 * @returns the path of the shared library, in a directory of its own.
 */
export function buildDirectoryModule(options: {
  service: string;
  directory: string;
  withoutInitgroups?: boolean;
}): string {
  const built = join(mkdtempSync(join(tmpdir(), "nss-")), `libnss_${options.service}.so.2`);
  const { exitCode, stderr } = Bun.spawnSync([
    "gcc",
    "-shared",
    "-fPIC",
    "-O1",
    "-Wall",
    "-Werror",
    `-DSERVICE=${options.service}`,
    `-DDIRECTORY="${options.directory}"`,
    ...(options.withoutInitgroups === true ? ["-DWITHOUT_INITGROUPS"] : []),
    "-o",
    built,
    join(import.meta.dir, "directory.c"),
  ]);
  if (exitCode !== 0) throw new Error(`gcc: ${stderr}`);
  return built;
}

/** Writes what the directory has. Names are bytes, given as Latin-1. */
export function writeDirectory(
  path: string,
  accounts: readonly { name: string; uid: number; groups?: readonly string[] }[],
  mode: DirectoryMode = "up",
): void {
  mkdirSync(path, { recursive: true });
  const groups = new Map<string, string[]>();
  for (const { name, groups: of = [] } of accounts)
    for (const group of of) groups.set(group, [...(groups.get(group) ?? []), name]);
  const own = accounts.map(({ name, uid }) => `${name}:x:${uid}:`);
  const shared = [...groups].map(([name, members], at) => `${name}:x:${FIRST_GID + at}:${members.join(",")}`);
  const passwd = accounts.map(({ name, uid }) => `${name}:x:${uid}:${uid}::/:/bin/sh`);
  const text = (lines: readonly string[]) => Buffer.from(lines.map((line) => `${line}\n`).join(""), "latin1");
  writeFileSync(join(path, "passwd"), text(passwd));
  writeFileSync(join(path, "group"), text([...own, ...shared]));
  setDirectoryMode(path, mode);
}

const FIRST_GID = 60_500;

export function setDirectoryMode(path: string, mode: DirectoryMode): void {
  writeFileSync(join(path, "mode"), mode);
}
