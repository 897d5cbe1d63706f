import { readdirSync, readFileSync } from "node:fs";
import { monotonicMs, systemClock } from "./clock.ts";

/** What this process uses of the machine, as of now. */
export interface ProcessUsage {
  /** Processor seconds since the start, in user and in system mode. */
  readonly userSeconds: number;
  readonly systemSeconds: number;
  readonly residentBytes: number;
  /** Null where /proc cannot be read. */
  readonly openFiles: number | null;
  readonly maxFiles: number | null;
  readonly threads: number | null;
  /** When it started: seconds since the epoch. */
  readonly startSeconds: number;
}

// The clock of monotonicMs() begins with the process.
const startSeconds = (systemClock.now() - monotonicMs()) / 1_000;

export function processUsage(): ProcessUsage {
  const { user, system } = process.cpuUsage();
  return {
    userSeconds: user / 1_000_000,
    systemSeconds: system / 1_000_000,
    residentBytes: process.memoryUsage.rss(),
    openFiles: told(() => readdirSync("/proc/self/fd").length - 1),
    maxFiles: told(() => numberIn("/proc/self/limits", /^Max open files\s+(\d+)/m)),
    threads: told(() => numberIn("/proc/self/status", /^Threads:\s+(\d+)/m)),
    startSeconds,
  };
}

function numberIn(path: string, pattern: RegExp): number | null {
  const found = pattern.exec(readFileSync(path, "utf8"))?.[1];
  return found === undefined ? null : Number(found);
}

/** Null where /proc cannot be read: prctl(PR_SET_DUMPABLE, 0) gives this process's own files there to root (proc(5)). */
function told(read: () => number | null): number | null {
  try {
    return read();
  } catch {
    return null;
  }
}
