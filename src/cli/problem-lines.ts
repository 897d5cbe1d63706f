import { systemClock } from "../platform/clock.ts";
import type { Problem } from "../telemetry/health.ts";
import { momentText } from "./terminal.ts";

/**
 * A problem as text: what, since when, what to do.
 *
 * @param nowMs milliseconds since the epoch. Default: the machine's clock.
 */
export function problemLines(
  { what, since, remedy }: Omit<Problem, "id" | "lasting">,
  nowMs = systemClock.now(),
): string[] {
  const lines = [`PROBLEM ${what}`, `  since ${momentText(since, nowMs)} (${since})`];
  if (remedy !== null) lines.push(...`to do: ${remedy}`.split("\n").map((line) => `  ${line}`));
  return lines;
}
