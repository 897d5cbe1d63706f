import { type Clock, systemClock } from "../../src/platform/clock.ts";
import { TIMEOUT_MS } from "../../src/upstream/client.ts";

/**
 * The machine's clock without the deadline of requests to the upstream. The deadline is for a service that hangs, and the processors of a
 * busy machine can be elsewhere for as long. Shorter waits are as they are.
 */
export const patientClock: Clock = {
  ...systemClock,
  schedule: (delayMs, run) => (delayMs < TIMEOUT_MS ? systemClock.schedule(delayMs, run) : () => {}),
};
