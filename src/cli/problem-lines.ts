import { systemClock } from "../platform/clock.ts";
import type { Problem } from "../telemetry/health.ts";
import { momentText } from "./terminal.ts";

/**
 * A problem as text: what, since when, what to do. The date comes first, because scripts look for it.
 *
 * @param options.nowMs milliseconds since the epoch. Default: the machine's clock. By its name, because the second argument of a
 * function that flatMap() calls is a row's number.
 */
export function problemLines(
  { what, since, remedy }: Omit<Problem, "id" | "lasting">,
  { nowMs = systemClock.now() }: { readonly nowMs?: number } = {},
): string[] {
  const lines = [`PROBLEM ${what}`, `  since ${since} (${momentText(since, nowMs)})`];
  if (remedy !== null) lines.push(...`to do: ${remedy}`.split("\n").map((line) => `  ${line}`));
  return lines;
}
