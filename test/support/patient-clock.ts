import { type Clock, systemClock } from "../../src/platform/clock.ts";

/** The deadline of a request to the upstream, in milliseconds: TIMEOUT_MS in src/upstream/client.ts. */
const DEADLINE_MS = 2_000;

/**
 * The machine's clock without the deadline of requests to the upstream. The deadline is for a service that hangs, and the processors of a
 * busy machine can be elsewhere for as long. Shorter waits are as they are.
 */
export const patientClock: Clock = {
  ...systemClock,
  schedule: (delayMs, run) => (delayMs < DEADLINE_MS ? systemClock.schedule(delayMs, run) : () => {}),
};
