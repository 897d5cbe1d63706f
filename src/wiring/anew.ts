import type { RecentCaller } from "../imds/recent-callers.ts";
import type { Clock } from "../platform/clock.ts";

/** Milliseconds over which the sessions are spread after a start. */
export const SPREAD_MS = 30_000;

/**
 * Begins the sessions of the callers who asked for credentials before the proxy was restarted. Each begins at a random moment
 * (jitter), so that a thousand nodes that are upgraded at once do not call STS in one moment.
 *
 * @param begin begins the session of one caller, and handles its own errors.
 * @returns a function that stops it.
 */
export function makeAnew(options: {
  readonly callers: readonly RecentCaller[];
  readonly begin: (caller: RecentCaller) => void;
  readonly clock: Pick<Clock, "schedule">;
  /** A number in [0, 1). */
  readonly random: () => number;
}): () => void {
  const cancels = options.callers.map((caller) =>
    options.clock.schedule(options.random() * SPREAD_MS, () => options.begin(caller)),
  );
  return () => {
    for (const cancel of cancels) cancel();
  };
}
