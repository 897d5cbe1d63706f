import { systemClock } from "../platform/clock.ts";
import type { Problem } from "../telemetry/health.ts";
import { momentText } from "./terminal.ts";

/**
 * A problem as text: what, since when, what to do. The date comes first, because scripts look for it.
 *
 * @param options.nowMs milliseconds since the epoch. Default: the machine's clock. An option by name, because flatMap() passes an
 * index as the second argument.
 */
export function problemLines(
  { what, since, remedy }: Omit<Problem, "id" | "lasting">,
  { nowMs = systemClock.now() }: { readonly nowMs?: number } = {},
): string[] {
  const lines = [`PROBLEM ${what}`];
  // What was found just now has no date.
  if (!Number.isNaN(Date.parse(since))) lines.push(`  since ${since} (${momentText(since, nowMs)})`);
  if (remedy !== null) lines.push(...`to do: ${remedy}`.split("\n").map((line) => `  ${line}`));
  return lines;
}
