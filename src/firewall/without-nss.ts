import { lstatSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";

/**
 * Keeps the directory service out of iptables. It looks uids up as names before it takes them for numbers, and SSSD or LDAP can
 * hang for minutes: rules would wait for it, at boot and in a repair. The C library loads one module for each service in
 * nsswitch.conf(5), `libnss_NAME.so.2`, along LD_LIBRARY_PATH first (nss/nss_module.c); a module that is found there and has none
 * of the functions is passed over. This needs no mount, no capability and no process.
 *
 * What it cannot keep out is nscd(8), where that runs: the library asks it before any module, and waits 5 s at the most.
 */

/** In /run, where only root can make anything. */
export const NO_MODULES_DIRECTORY = "/run/imdsproxy-nss";

/** Known services, in case nsswitch.conf changes meanwhile. */
const SERVICES = [
  "compat",
  "db",
  "extrausers",
  "hesiod",
  "ldap",
  "nis",
  "nisplus",
  "sss",
  "systemd",
  "winbind",
];

/** The services that nsswitch.conf names for accounts and groups. Pure. */
export function servicesOf(nsswitch: string): string[] {
  const found = new Set<string>();
  for (const line of nsswitch.split("\n")) {
    const [, services = ""] = /^\s*(?:passwd|group|initgroups)\s*:([^#]*)/.exec(line) ?? [];
    // `[NOTFOUND=return]` is no service.
    for (const name of services.replaceAll(/\[[^\]]*\]/g, " ").split(/\s+/)) {
      if (/^[A-Za-z0-9_-]+$/.test(name)) found.add(name);
    }
  }
  return [...found];
}

const textOf = (path: string): string => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};

/** The path of the C library that this process has loaded. It stands for each module, because it has none of their functions. */
function libraryPath(): string | null {
  for (const line of textOf("/proc/self/maps").split("\n")) {
    const [, path] = /\s(\/\S*\/libc(?:\.so\.6|-2\.\d+\.so))$/.exec(line) ?? [];
    if (path !== undefined) return path;
  }
  return null;
}

/**
 * Variables for a program that is to look up no names but those in files.
 *
 * @returns {} where the directory cannot be made, as on a full disk: then the spelling of the uids alone protects.
 */
export function withoutNss(): Record<string, string> {
  const library = libraryPath();
  if (library === null) return {};
  try {
    mkdirSync(NO_MODULES_DIRECTORY, { recursive: true, mode: 0o755 });
    for (const name of new Set([...SERVICES, ...servicesOf(textOf("/etc/nsswitch.conf"))])) {
      const path = join(NO_MODULES_DIRECTORY, `libnss_${name}.so.2`);
      if (lstatSync(path, { throwIfNoEntry: false }) === undefined) symlinkSync(library, path);
    }
    // The directory must be root's, because its owner chooses the libraries that root loads.
    if (lstatSync(NO_MODULES_DIRECTORY).uid !== 0) return {};
    return { LD_LIBRARY_PATH: NO_MODULES_DIRECTORY };
  } catch {
    return {};
  }
}
