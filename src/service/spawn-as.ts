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
 * Starts this program again as another user, in a clean environment.
 *
 * That user's other processes may stop and kill that one (kill(2)). So it runs in a session of its own, without root's terminal: a
 * process of the terminal's session could put commands into its input (ioctl_tty(2), TIOCSTI). Its output is treated as the user's
 * ({@link saidBy}). Ctrl-C does not reach it, so it must end by itself.
 *
 * It starts as root and becomes the user by itself (cli/as-user.ts). Bun makes a process by vfork(2), which keeps this one waiting until the
 * new one executes a program. With `uid` it would be the user's before that: the user could stop it, and this one would wait for ever,
 * whatever limit of time it has. A process that changed its uid by itself is also not to be traced by its user (PR_SET_DUMPABLE).
 *
 * @param argv the command and its arguments.
 */
export const spawnAs = ({ uid, gid }: UserIds, argv: readonly string[]): UsersChild =>
  spawn(process.execPath, ["as-user", `${uid}:${gid}`, JSON.stringify(argv)], {
    cwd: "/",
    env: { PATH: SYSTEM_PATH },
    stdio: ["pipe", "pipe", "pipe"],
    detached: true,
  });
