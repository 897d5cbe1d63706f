import type { Clock } from "../platform/clock.ts";

/** How often systemd is told in each WatchdogSec=: it may miss two of them. */
const TIMES = 3;

/**
 * Feeds systemd's watchdog (sd_watchdog_enabled(3)), as long as the event loop runs and the process is well. Where one of the two fails
 * for WatchdogSec=, systemd restarts the service.
 *
 * @param options.limitMicroseconds WATCHDOG_USEC of the environment; undefined, or no number above 0, for none.
 * @returns what stops it.
 */
export function feedWatchdog(options: {
  readonly limitMicroseconds: string | undefined;
  readonly isWell: () => boolean;
  readonly notify: (state: string) => void;
  readonly clock: Pick<Clock, "schedule">;
}): () => void {
  const { isWell, notify, clock } = options;
  const limitMs = Number(options.limitMicroseconds ?? "0") / 1_000;
  if (!(limitMs > 0)) return () => {};
  let cancel = () => {};
  const later = (): void => {
    cancel = clock.schedule(limitMs / TIMES, () => {
      later();
      if (isWell()) notify("WATCHDOG=1");
    });
  };
  later();
  return () => cancel();
}
