import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import type { ReadableStreamDefaultReader } from "node:stream/web";
import { ImdsProxyError } from "../errors.ts";
import { after } from "./clock.ts";

/** Runs the node's programs: finds them, gives them a clean environment, waits for their end. */

/** Searched after PATH, which for many users lacks the directories of iptables. */
const FALLBACK_DIRECTORIES = ["/usr/sbin", "/sbin"];

/** The directories of programs on every distribution, for where PATH must not depend on the caller's shell. */
export const SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * PATH of this process, and the directories of root's programs. Where there is no PATH, as in the empty environment of some
 * daemons, the system's.
 */
const ownPath = (): string => [process.env["PATH"] || SYSTEM_PATH, ...FALLBACK_DIRECTORIES].join(delimiter);

/**
 * The path of an executable, or null.
 *
 * @param name its name, or its absolute path.
 * @param path the directories to search; default those of PATH, then /usr/sbin and /sbin.
 */
export function findProgram(name: string, path: string = ownPath()): string | null {
  // A relative entry of PATH would let the current directory choose what root runs.
  const directories = path.split(delimiter).filter((directory) => directory.startsWith("/"));
  const files = name.startsWith("/") ? [name] : directories.map((directory) => join(directory, name));
  return files.find(isExecutable) ?? null;
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * The whole environment of a program. Our own variables are not passed on: they could name libraries (XTABLES_LIBDIR) or hold
 * credentials.
 */
export const cleanEnvironment = (path: string = ownPath()): Record<string, string> => ({
  PATH: path,
  LC_ALL: "C",
});

/** What a program wrote, and how it ended. */
export interface ProgramResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ProgramOptions {
  /** Milliseconds after which it is killed; then the exit code is not 0. Default 20,000. */
  readonly timeoutMs?: number;
  /** The directories to search, and PATH of the program; default as {@link findProgram} has them. */
  readonly path?: string;
  /** What it reads as standard input; default nothing. */
  readonly input?: string;
  /** A session of its own (setsid(2)), which Ctrl-C and the end of the terminal do not reach. Default false. */
  readonly ownSession?: boolean;
}

/** The exit code of a program that SIGKILL has ended, as a shell has it. */
const KILLED = 137;
/**
 * Milliseconds from SIGKILL until a program is given up. A process that it started may keep its output open, such as a modprobe of iptables' that
 * the kernel does not let go of, and the kernel may not let go of the program itself.
 */
const LAST_OUTPUT_MS = 500;

/**
 * Runs a program to its end. Where there is no such program, the exit code is 127, as in a shell. Output that comes later than half a second after
 * `timeoutMs` is not waited for, whoever writes it.
 *
 * @param argv its name or absolute path, and its arguments.
 * @throws ImdsProxyError `command-failed` where the node has no process left for it.
 */
export async function runProgram(
  [name = "", ...args]: readonly string[],
  { timeoutMs = 20_000, path, input = "", ownSession = false }: ProgramOptions = {},
): Promise<ProgramResult> {
  const program = findProgram(name, path);
  if (program === null) return { exitCode: 127, stdout: "", stderr: `${name}: not found` };
  const child = startProgram(program, () =>
    Bun.spawn([program, ...args], {
      env: cleanEnvironment(path),
      detached: ownSession,
      stdin: input === "" ? "ignore" : Buffer.from(input),
      stdout: "pipe",
      stderr: "pipe",
      timeout: timeoutMs,
      killSignal: "SIGKILL",
    }),
  );
  const [stdout, stderr] = [new Output(child.stdout), new Output(child.stderr)];
  let exitCode = KILLED;
  const ended = child.exited.then((code) => {
    exitCode = code;
  });
  const late = Promise.withResolvers<void>();
  const cancel = after(timeoutMs + LAST_OUTPUT_MS, late.resolve);
  await Promise.race([Promise.all([ended, stdout.complete, stderr.complete]), late.promise]);
  cancel();
  for (const output of [stdout, stderr]) output.stop();
  return { exitCode, stdout: stdout.text(), stderr: stderr.text() };
}

/** What one stream of a program gives, from its start on. */
export class Output {
  /** Resolves where nothing more can come, because no process has the other end of the pipe. */
  readonly complete: Promise<void>;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #pieces: Uint8Array[] = [];

  constructor(stream: ReadableStream<Uint8Array>) {
    this.#reader = stream.getReader();
    this.complete = this.#read();
  }

  /** The text until now. */
  text(): string {
    return Buffer.concat(this.#pieces).toString();
  }

  /** Reads no more. */
  stop(): void {
    this.#reader.cancel().catch(() => {});
  }

  async #read(): Promise<void> {
    for (;;) {
      const { done, value } = await this.#reader.read();
      if (done) return;
      this.#pieces.push(value);
    }
  }
}

/**
 * Calls Bun.spawn, which throws where fork(2) fails (EAGAIN: pid_max, a limit of tasks; ENOMEM) and where the program is gone.
 *
 * @throws ImdsProxyError `command-failed`, with the reason.
 */
export function startProgram<T>(program: string, spawn: () => T): T {
  try {
    return spawn();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unknown";
    throw new ImdsProxyError(
      "command-failed",
      `cannot start ${program}: ${code}`,
      code === "EAGAIN"
        ? "no process can be started: a limit of processes is reached; see pid_max, TasksMax, and who runs so many"
        : null,
    );
  }
}
