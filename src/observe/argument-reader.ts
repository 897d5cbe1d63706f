import { runProgram } from "../platform/programs.ts";
import { redactedArguments } from "./arguments.ts";
import type { CallerCount } from "./callers.ts";
import type { FoundProcess } from "./processes.ts";

/**
 * Reads the arguments of processes by head(1), a process that can be killed, because a read of /proc/PID/cmdline may never return: it
 * reads memory of the process. Before linux 4.17 the owner can delay a reader for ever with memory that is backed by a FUSE file
 * (CVE-2018-1120); since then, for as long as something holds the lock of that memory. Such a read delays no other user's.
 */

const TIMEOUT_MS = 1_000;
const MOST_AT_ONCE = 2;
const MOST_BYTES = 2_048;
/** How often a caller's arguments are tried: a short program may have ended each time. */
const MOST_TRIES = 5;

export class ArgumentReader {
  readonly #isStill: (process: FoundProcess) => boolean;
  readonly #read: (pid: number) => Promise<string | null>;
  readonly #tries = new WeakMap<CallerCount, number>();
  /** Users whose processes are being read, and those who kept a read waiting. */
  readonly #busy = new Set<number>();
  readonly #slow = new Set<number>();

  /**
   * @param isStill whether the process is the one that was found.
   * @param read the text of /proc/PID/cmdline; null where it is not told in time. Default by head(1).
   */
  constructor(isStill: (process: FoundProcess) => boolean, read = readByHead) {
    this.#isStill = isStill;
    this.#read = read;
  }

  /** Reads the arguments in the background, unless a limit forbids it. */
  async take(caller: CallerCount, process: FoundProcess): Promise<void> {
    const { uid } = caller.key;
    const tries = this.#tries.get(caller) ?? 0;
    if (uid === null || tries >= MOST_TRIES || this.#slow.has(uid)) return;
    if (this.#busy.size >= MOST_AT_ONCE || this.#busy.has(uid)) return;
    this.#tries.set(caller, tries + 1);
    this.#busy.add(uid);
    try {
      const text = await this.#read(process.pid);
      if (text === null) this.#slow.add(uid);
      else if (text !== "" && this.#isStill(process)) caller.arguments ??= redactedArguments(text);
    } finally {
      this.#busy.delete(uid);
    }
  }
}

async function readByHead(pid: number): Promise<string | null> {
  const argv = ["head", "-c", String(MOST_BYTES), `/proc/${pid}/cmdline`];
  const { exitCode, stdout } = await runProgram(argv, { timeoutMs: TIMEOUT_MS });
  // A signal ended it: the time was over. Any other failure is a process that has ended.
  if (exitCode > 128) return null;
  return exitCode === 0 ? stdout : "";
}
