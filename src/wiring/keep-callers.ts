import type { RecentCallers } from "../imds/recent-callers.ts";
import type { Clock } from "../platform/clock.ts";
import type { Log } from "../telemetry/log.ts";
import { writeCallers } from "./callers-file.ts";

/** How long somebody new waits to be written down, and how old the times in the file become, in milliseconds. */
const NEW_MS = 5_000;
const OLD_MS = 600_000;

/**
 * Writes down who asked for credentials, so that a restart finds it: soon for somebody new, and now and then for the times.
 * Written beside the event loop; where the disk takes nothing, it is said once, and nothing else suffers.
 *
 * @returns writes a last time, and ends it.
 */
export function keepCallers(options: {
  readonly recent: RecentCallers;
  readonly stateDirectory: string;
  /** How long a caller is of interest, in milliseconds. */
  readonly forMs: number;
  readonly clock: Clock;
  readonly log: Log;
}): () => Promise<void> {
  const { recent, clock } = options;
  let written = recent.changes;
  let writtenAtMs = clock.now();
  let complained = false;
  let cancel = () => {};

  const write = async (): Promise<void> => {
    const nowMs = clock.now();
    written = recent.changes;
    writtenAtMs = nowMs;
    try {
      await writeCallers(options.stateDirectory, recent.since(nowMs - options.forMs), nowMs);
      complained = false;
    } catch (error) {
      if (!complained) {
        options.log.warn("who has sessions cannot be kept over a restart: they are not made anew then", {
          directory: options.stateDirectory,
          code: (error as NodeJS.ErrnoException).code,
        });
      }
      complained = true;
    }
  };
  const look = async (): Promise<void> => {
    const aged = Math.abs(clock.now() - writtenAtMs) >= OLD_MS;
    if (recent.changes !== written || aged) await write();
    lookLater();
  };
  let last: Promise<void> = Promise.resolve();
  const lookLater = () => {
    cancel = clock.schedule(NEW_MS, () => {
      last = look();
    });
  };
  lookLater();
  return async () => {
    await last;
    cancel();
    await write();
  };
}
