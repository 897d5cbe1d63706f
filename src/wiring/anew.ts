import type { RecentCaller } from "../imds/recent-callers.ts";
import type { Clock } from "../platform/clock.ts";

/** The time over which sessions are made anew after a start, in milliseconds. */
export const SPREAD_MS = 30_000;

/**
 * Begins the sessions of those who asked for credentials before the proxy was started again. Each begins at a moment of
 * its own, by chance: where a thousand nodes are upgraded at once, STS is not asked a thousand times in one moment.
 *
 * @param begin begins the session of one; what goes wrong there is its own affair.
 * @returns stops it.
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
