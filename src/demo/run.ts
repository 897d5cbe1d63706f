import { after } from "../platform/clock.ts";
import { Output } from "../platform/programs.ts";
import { CLEAN_ENVIRONMENT, type Namespace, onlyChild, processTree } from "./namespace.ts";

/** Who runs a command on the node. */
export interface RunAs {
  readonly uid: number;
  readonly gid: number;
  /** The account's name, whose groups the command gets; null: no further groups. */
  readonly name: string | null;
  readonly home: string;
}

/** What a command is given. */
export interface RunOptions {
  readonly argv: readonly string[];
  /** Added to a clean environment: nothing of ours is passed on. */
  readonly env?: Readonly<Record<string, string>>;
  /** Standard input; default: empty. */
  readonly stdin?: string;
  /** After this many milliseconds the command and all its children are killed; default 30,000; 0: never. */
  readonly timeoutMs?: number;
}

/** How a command ended. */
export interface RunResult {
  /** 128 + the signal's number where a signal ended it, as in a shell. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  /** True where `timeoutMs` ended it. */
  readonly timedOut: boolean;
}

/** A command that runs on the node. */
export interface Running {
  /** Its pid as the machine sees it; null where it has ended already. */
  pid(): number | null;
  /** Sends a signal to the command itself. */
  kill(signal: NodeJS.Signals): void;
  /** What it has written so far. */
  stdout(): string;
  stderr(): string;
  /** Resolves when it has ended and its output is complete. */
  readonly done: Promise<RunResult>;
}

/** Milliseconds for the rest of the output, once a command was killed for its time. */
const OUTPUT_MS = 500;

/** Runs a command in the namespace with the credentials of `as`, and with no capability where that is not root. */
export function runIn(namespace: Namespace, as: RunAs, options: RunOptions): Running {
  const groups = as.name === null ? "--clear-groups" : "--init-groups";
  const identity = as.uid === 0 ? [] : [`--reuid=${as.uid}`, `--regid=${as.gid}`, groups];
  // The command dies with nsenter, which waits for it outside of its pid namespace.
  const command = namespace.enter(["setpriv", "--pdeathsig=KILL", ...identity, "--", ...options.argv], "own");
  const user = as.name ?? String(as.uid);
  const child = Bun.spawn(command, {
    stdin: Buffer.from(options.stdin ?? ""),
    stdout: "pipe",
    stderr: "pipe",
    env: { ...CLEAN_ENVIRONMENT, HOME: as.home, USER: user, LOGNAME: user, SHELL: "/bin/sh", ...options.env },
    cwd: "/",
    detached: true,
  });
  namespace.entered(child);
  const stdout = new Output(child.stdout);
  const stderr = new Output(child.stderr);
  let timedOut = false;
  const over = Promise.withResolvers<void>();
  const giveUp = () => {
    timedOut = true;
    // A process that detached from the command may keep its output open.
    after(OUTPUT_MS, over.resolve);
    // The parent last: once it is gone, its children can no longer be found.
    for (const pid of processTree(child.pid).reverse()) signal(pid, "SIGKILL");
  };
  const timeoutMs = options.timeoutMs ?? 30_000;
  const cancelTimeout = timeoutMs === 0 ? () => {} : after(timeoutMs, giveUp);
  const output = Promise.race([Promise.all([stdout.complete, stderr.complete]), over.promise]);
  const done = Promise.all([child.exited, output]).then(([exitCode]) => {
    cancelTimeout();
    return { exitCode, stdout: stdout.text(), stderr: stderr.text(), timedOut };
  });
  const pid = () => (child.exitCode === null && child.signalCode === null ? onlyChild(child.pid) : null);
  return {
    pid,
    kill(name) {
      const target = pid();
      if (target !== null) signal(target, name);
    },
    stdout: () => stdout.text(),
    stderr: () => stderr.text(),
    done,
  };
}

/** Sends a signal to a process, which may have ended by itself. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
