import { CHECKS } from "./checks.ts";
import type { Check, DoctorInputs, Finding, Report } from "./types.ts";

/** Judges what was looked at. Pure. */
export function build(inputs: DoctorInputs, checks: readonly Check[] = CHECKS): Report {
  const findings: Finding[] = [];
  const unchecked: { id: string; why: string }[] = [];
  for (const { id, level, why, remedy, command, run } of checks) {
    for (const outcome of run(inputs)) {
      if ("unchecked" in outcome) unchecked.push({ id, why: outcome.unchecked });
      else findings.push({ id, level, why, remedy, command, ...outcome });
    }
  }
  // What is open first; in each part the order of the checks.
  findings.sort((a, b) => Number(b.level === "open") - Number(a.level === "open"));
  return {
    as: inputs.as,
    open: findings.some(({ level }) => level === "open"),
    findings,
    unchecked,
    checks: checks.map(({ id }) => id),
  };
}
