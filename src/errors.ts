/**
 * The errors that a person sees. Each says what was being done, what was found, and what would be right;
 * none carries a secret. The code is a closed union, so that one table maps it to an exit code.
 */

/** What went wrong, as a word that scripts and tests may rely on. */
export type ErrorCode =
  /** The command line was wrong: unknown command, unknown flag, missing argument. */
  | "usage"
  /** The configuration file or a flag that overrides it is wrong. */
  | "config"
  /** The address to listen on is in use. */
  | "port-taken"
  /** The process lacks a Linux capability, or is not root where it has to be. */
  | "permission"
  /** The kernel, or a program of the system, lacks something that is needed. */
  | "missing"
  /** A file or directory that others could write or read where they must not. */
  | "unsafe"
  /** A program that was run (iptables, systemctl, …) failed. */
  | "command-failed"
  /** The metadata service upstream did not answer as it should. */
  | "upstream"
  /** What was checked is not in the state that it should be in. */
  | "unhealthy";

const EXIT_CODES: Record<ErrorCode, 1 | 2> = {
  usage: 2,
  config: 2,
  "port-taken": 1,
  permission: 1,
  missing: 1,
  unsafe: 1,
  "command-failed": 1,
  upstream: 1,
  unhealthy: 1,
};

/**
 * An error meant for the person at the terminal.
 *
 * @example new ImdsProxyError("permission", "cannot change iptables: not running as root", "run it with sudo")
 */
export class ImdsProxyError extends Error {
  override readonly name = "ImdsProxyError";
  readonly code: ErrorCode;
  readonly problem: string;
  readonly remedy: string | null;

  /**
   * @param code what went wrong.
   * @param problem what was being done and what was found, in one sentence without a final stop.
   * @param remedy what would be right, or null where nobody can say.
   */
  constructor(code: ErrorCode, problem: string, remedy: string | null = null, options?: ErrorOptions) {
    super(remedy === null ? problem : `${problem}\n  ${remedy.replaceAll("\n", "\n  ")}`, options);
    this.code = code;
    this.problem = problem;
    this.remedy = remedy;
  }

  /** 2 where the caller called it wrongly, else 1. */
  get exitCode(): 1 | 2 {
    return EXIT_CODES[this.code];
  }
}

/** How many of our own frames the report of an unforeseen error has. */
const FRAMES = 4;

/**
 * An error that nobody foresaw, for the log: its class and where in our code it came about. Its own words could quote anything, a
 * secret included, so they are reported only where they are ours.
 */
export function describeUnforeseen(error: unknown): string {
  if (error instanceof ImdsProxyError) return `${error.name}: ${error.problem}`;
  if (!(error instanceof Error)) return typeof error;
  const code = (error as NodeJS.ErrnoException).code;
  const kind =
    typeof code === "string" && /^[A-Z0-9_]{1,40}$/.test(code) ? `${error.name} ${code}` : error.name;
  const frames = (error.stack ?? "")
    .split("\n")
    .map((line) => /^\s+at (.*)$/.exec(line)?.[1])
    .filter((frame) => frame !== undefined && !/node_modules|\bnative\b|\bnode:/.test(frame))
    .slice(0, FRAMES);
  return frames.length === 0 ? kind : `${kind} at ${frames.join(", ")}`;
}

/** Errors of open(2) and read(2) that say nothing of the file. */
const PASSING: ReadonlySet<string> = new Set(["EMFILE", "ENFILE", "ENOMEM", "EINTR", "EIO"]);

/** Whether a file that could not be read may be readable a moment later, as where no descriptor is free. */
export const isPassing = (error: unknown): boolean =>
  PASSING.has((error as NodeJS.ErrnoException | undefined)?.code ?? "");
