import { ImdsProxyError } from "../errors.ts";

/** The group nobody or nogroup, on every supported distribution. */
export const NOGROUP = 65_534;

/** A uid with its group. */
export interface Credentials {
  readonly uid: number;
  readonly gid: number;
}

/**
 * Changes the user and group of this process for good, and drops all supplementary groups. The user's own groups are not set: the
 * firewall's rules look at the uid alone, and a look-up of the groups would load NSS modules into this process.
 */
export function become({ uid, gid }: Credentials): void {
  const { setgroups, setgid, setuid } = process;
  if (setgroups === undefined || setgid === undefined || setuid === undefined || process.geteuid?.() !== 0) {
    throw new ImdsProxyError("missing", "cannot give up root here", "run it as an ordinary user");
  }
  setgroups([]);
  setgid(gid);
  setuid(uid);
  if (process.getuid?.() !== uid || process.geteuid?.() !== uid) {
    throw new ImdsProxyError(
      "permission",
      `could not become uid ${uid}`,
      "run it as root, with CAP_SETUID and CAP_SETGID, or as that user",
    );
  }
}
