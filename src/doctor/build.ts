import { CHECKS } from "./checks.ts";
import type { Check, DoctorInputs, Finding, Report } from "./types.ts";

/** Runs the checks over what was gathered. Pure. */
export function build(inputs: DoctorInputs, checks: readonly Check[] = CHECKS): Report {
  const findings: Finding[] = [];
  const unchecked: { id: string; why: string }[] = [];
  for (const { id, level, why, remedy, command, run } of checks) {
    for (const outcome of run(inputs)) {
      if ("unchecked" in outcome) unchecked.push({ id, why: outcome.unchecked });
      else findings.push({ id, level, why, remedy, command, ...outcome });
    }
  }
  // Findings of level `open` come first; otherwise the order of the checks stays.
  findings.sort((a, b) => Number(b.level === "open") - Number(a.level === "open"));
  return {
    as: inputs.as,
    open: findings.some(({ level }) => level === "open"),
    findings,
    unchecked,
    checks: checks.map(({ id }) => id),
  };
}
