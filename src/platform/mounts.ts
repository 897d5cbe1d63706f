import { readFileSync } from "node:fs";

/** The mounts, by /proc/self/mountinfo (proc_pid_mountinfo(5)), which can be read without asking a file system. */

/** A mount point with the type of its file system. */
export interface Mount {
  readonly point: string;
  readonly type: string;
}

/** Octal escapes stand for blanks, tabs, newlines and backslashes. */
const unescaped = (text: string): string =>
  text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));

/** Reads the text of mountinfo. Pure. */
export function parseMounts(text: string): readonly Mount[] {
  return text.split("\n").flatMap((line) => {
    const [before = "", after = ""] = line.split(" - ");
    const point = before.split(" ")[4];
    const type = after.split(" ")[0];
    return point === undefined || type === undefined || type === ""
      ? []
      : [{ point: unescaped(point), type }];
  });
}

export const mountsHere = (): readonly Mount[] => parseMounts(readFileSync("/proc/self/mountinfo", "utf8"));

/** File systems whose server is another machine or a user's program, and autofs, which mounts on access. */
const REMOTE =
  /^(?:nfs4?|cifs|smb3?|smbfs|lustre|lustre_tgt|ceph|glusterfs|beegfs|gpfs|wekafs|pvfs2|orangefs|afs|coda|9p|ocfs2|gfs2|autofs|davfs|ncpfs|panfs|efs|fuse(?:\..*)?|fuseblk)$/;

/**
 * The type of the network file system that is mounted exactly at a path; null where none is. Of several mounts at one point the last
 * counts.
 */
export function remoteAt(mounts: readonly Mount[]): (path: string) => string | null {
  const types = new Map<string, string>();
  for (const { point, type } of mounts) types.set(point, type);
  return (path) => {
    const type = types.get(path);
    return type !== undefined && REMOTE.test(type) ? type : null;
  };
}
