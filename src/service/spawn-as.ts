import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { SYSTEM_PATH } from "../platform/programs.ts";

/** A user of the node, by numbers. */
export interface UserIds {
  readonly uid: number;
  readonly gid: number;
}

export type UsersChild = ChildProcessByStdio<Writable, Readable, Readable>;

/**
 * Starts this program again as another user, in a clean environment. node:child_process drops all groups with the uid.
 *
 * That user's other processes may stop, kill, read and change it (kill(2), ptrace(2)). So it runs in a session of its own, without
 * root's terminal: a process of the terminal's session could put commands into its input (ioctl_tty(2), TIOCSTI). Its output is
 * treated as the user's ({@link saidBy}). Ctrl-C does not reach it, so it must end by itself.
 *
 * @param argv the command and its arguments.
 */
export const spawnAs = ({ uid, gid }: UserIds, argv: readonly string[]): UsersChild =>
  spawn(process.execPath, [...argv], {
    uid,
    gid,
    cwd: "/",
    env: { PATH: SYSTEM_PATH },
    stdio: ["pipe", "pipe", "pipe"],
    detached: true,
  });
