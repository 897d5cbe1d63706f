import { readdirSync, readlinkSync } from "node:fs";
import { beginningOfFile } from "../bounded-read.ts";
import { plainText } from "./plain-text.ts";

/**
 * Which process has a socket: evidence for people, never an identity. A process can give its socket away, take another's name
 * and end at any moment.
 *
 * Nothing here reads memory of the process or takes its lock (cmdline, environ, maps): argument-reader.ts says why.
 */

/** What is known of the process that has a socket. */
export interface FoundProcess {
  readonly pid: number;
  /** Ticks since boot (proc_pid_stat(5), starttime): with the pid it names one process. */
  readonly startTime: string;
  /** The path of its executable (/proc/PID/exe); `unknown` where the kernel has none. */
  readonly program: string;
  /** Names of its parents inside of the same cgroup, the nearest first: up to the main process of a unit. */
  readonly parents: readonly string[];
}

const UNKNOWN = "unknown";
/** Processes of the cgroup that are looked at, the newest first, and descriptors of each, the highest first. */
const MOST_PROCESSES = 128;
const MOST_DESCRIPTORS = 512;
const FEW_DESCRIPTORS = 32;
/** Bytes of cgroup.procs that are read: more than 8,000 processes. */
const MOST_BYTES = 65_536;
const MOST_PARENTS = 6;
const LONGEST_PROGRAM = 120;
const LONGEST_NAME = 16;

export class Processes {
  readonly #proc: string;

  /** @param proc default /proc. */
  constructor(proc = "/proc") {
    this.#proc = proc;
  }

  /** The processes of a cgroup, the newest first; none where they cannot be told. */
  inCgroup(directory: string): number[] {
    return this.#text(`${directory}/cgroup.procs`, MOST_BYTES)
      .split("\n")
      .map(Number)
      .filter((pid) => pid > 0)
      .sort((a, b) => b - a);
  }

  /**
   * The process among these that has the socket, checked again after everything was read; null where none has, or where it ended
   * meanwhile.
   */
  withSocket(inode: number, pids: readonly number[]): FoundProcess | null {
    for (const pid of pids.slice(0, MOST_PROCESSES)) {
      const before = this.#stat(pid);
      const descriptor = before === null ? null : this.#descriptorOf(pid, inode);
      if (before === null || descriptor === null) continue;
      const program = this.#programOf(pid);
      const parents = this.#parentsOf(before.parent, new Set(pids));
      const after = this.#stat(pid);
      if (after?.startTime !== before.startTime || !this.#isSocket(descriptor, inode)) return null;
      return { pid, startTime: before.startTime, program, parents };
    }
    return null;
  }

  /** Whether a process that was found before still runs the same program, and has this socket among its newest descriptors. */
  hasSocket(found: FoundProcess, inode: number): boolean {
    return (
      this.#descriptorOf(found.pid, inode, FEW_DESCRIPTORS) !== null &&
      this.#programOf(found.pid) === found.program &&
      this.isStill(found)
    );
  }

  /** Whether it is still the process that was found. */
  isStill({ pid, startTime }: FoundProcess): boolean {
    return this.#stat(pid)?.startTime === startTime;
  }

  #descriptorOf(pid: number, inode: number, most = MOST_DESCRIPTORS): string | null {
    let names: string[];
    try {
      names = readdirSync(`${this.#proc}/${pid}/fd`);
    } catch {
      return null;
    }
    const newest = names
      .map(Number)
      .sort((a, b) => b - a)
      .slice(0, most);
    for (const number of newest) {
      const path = `${this.#proc}/${pid}/fd/${number}`;
      if (this.#isSocket(path, inode)) return path;
    }
    return null;
  }

  #isSocket(path: string, inode: number): boolean {
    try {
      return readlinkSync(path) === `socket:[${inode}]`;
    } catch {
      return false;
    }
  }

  #programOf(pid: number): string {
    try {
      return plainText(readlinkSync(`${this.#proc}/${pid}/exe`), LONGEST_PROGRAM);
    } catch {
      return UNKNOWN;
    }
  }

  /** Up to the first that is in another cgroup. */
  #parentsOf(first: number, inCgroup: ReadonlySet<number>): string[] {
    const names: string[] = [];
    for (let pid = first; inCgroup.has(pid) && names.length < MOST_PARENTS; ) {
      const stat = this.#stat(pid);
      if (stat === null) break;
      names.push(stat.name);
      pid = stat.parent;
    }
    return names;
  }

  /** proc_pid_stat(5): `pid (comm) state ppid … starttime`, the 22nd field. comm may hold blanks and parentheses. */
  #stat(pid: number): { readonly name: string; readonly parent: number; readonly startTime: string } | null {
    const text = this.#text(`${this.#proc}/${pid}/stat`, 4_096);
    const end = text.lastIndexOf(")");
    const start = text.indexOf("(");
    if (start < 0 || end < start) return null;
    const fields = text.slice(end + 2).split(" ");
    const startTime = fields[19];
    if (startTime === undefined) return null;
    return {
      name: plainText(text.slice(start + 1, end), LONGEST_NAME),
      parent: Number(fields[1]),
      startTime,
    };
  }

  /** The beginning of a file; empty where it cannot be read. */
  #text(path: string, mostBytes: number): string {
    try {
      return beginningOfFile(path, mostBytes).toString("latin1");
    } catch {
      return "";
    }
  }
}
