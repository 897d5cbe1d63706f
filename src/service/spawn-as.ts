import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { SYSTEM_PATH } from "../platform/programs.ts";

/** A user of the node, by numbers. */
export interface UserIds {
  readonly uid: number;
  readonly gid: number;
}

/**
 * Starts this program again as another user, in a clean environment. node:child_process drops all groups with the uid.
 *
 * @param argv the command and its arguments.
 */
export const spawnAs = (
  { uid, gid }: UserIds,
  argv: readonly string[],
): ChildProcessByStdio<Writable, Readable, Readable> =>
  spawn(process.execPath, [...argv], {
    uid,
    gid,
    cwd: "/",
    env: { PATH: SYSTEM_PATH },
    stdio: ["pipe", "pipe", "pipe"],
  });
