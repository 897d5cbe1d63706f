import type { RecentCallers } from "../imds/recent-callers.ts";
import type { Clock } from "../platform/clock.ts";
import type { Finding } from "../telemetry/health.ts";
import type { Log } from "../telemetry/log.ts";
import { writeCallers } from "./callers-file.ts";

/** Milliseconds until a new caller is written to the file, and until the times of known ones are. */
const NEW_MS = 5_000;
const OLD_MS = 600_000;

/** The writing, while it goes on. */
export interface KeptCallers {
  /** What to tell an administrator where the last writing failed; else null. */
  finding(): Finding | null;
  /** Writes a last time, and ends it. */
  stop(): Promise<void>;
}

/**
 * Writes the callers who asked for credentials to the file, so that a restart finds them: soon after a new caller, soon after a
 * failure, and at intervals for the times. It writes asynchronously. A failure is logged once, is a part of the health, and has no other effect.
 */
export function keepCallers(options: {
  readonly recent: RecentCallers;
  readonly stateDirectory: string;
  /** Milliseconds for which a caller is kept. */
  readonly forMs: number;
  readonly clock: Clock;
  readonly log: Log;
}): KeptCallers {
  const { recent, clock } = options;
  let written = recent.changes;
  let writtenAtMs = clock.now();
  /** Why the last one was not written, or null. */
  let failed: string | null = null;
  let cancel = () => {};

  const write = async (): Promise<void> => {
    const nowMs = clock.now();
    written = recent.changes;
    writtenAtMs = nowMs;
    try {
      await writeCallers(options.stateDirectory, recent.since(nowMs - options.forMs), nowMs);
      failed = null;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? "unknown";
      if (failed === null) {
        options.log.warn(
          "the list of users who have sessions cannot be written: after a restart their sessions are made when they ask",
          {
            directory: options.stateDirectory,
            code,
          },
        );
      }
      failed = code;
    }
  };
  const look = async (): Promise<void> => {
    const aged = Math.abs(clock.now() - writtenAtMs) >= OLD_MS;
    if (recent.changes !== written || aged || failed !== null) await write();
    lookLater();
  };
  let last: Promise<void> = Promise.resolve();
  const lookLater = () => {
    cancel = clock.schedule(NEW_MS, () => {
      last = look();
    });
  };
  lookLater();
  return {
    finding() {
      if (failed === null) return null;
      const { stateDirectory } = options;
      return {
        what: `${stateDirectory} cannot be written to (${failed}): everybody is served, but after a restart users who had a session wait for a new one`,
        remedy: `see whether the disk is full, by blocks or by files: df -h ${stateDirectory}; df -i ${stateDirectory}`,
        lasting: false,
      };
    },
    async stop() {
      await last;
      cancel();
      await write();
    },
  };
}
