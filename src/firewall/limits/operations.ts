import type { Outcome } from "../operations.ts";
import type { FirewallSpec } from "../types.ts";
import type { LimitsSpec } from "./figures.ts";
import {
  applyLimits,
  type LimitsStatus,
  limitsLook,
  limitsStatus,
  limitsText,
  removalText,
  removeLimits,
} from "./own-table.ts";

/** What `apply` and `remove` do with the table of limits, besides the rules of iptables. */

/** Applies the limits and adds that to the result of applying the rules; in a dry run, adds what nft(8) would be given. */
export function bringLimits(rules: Outcome, { limits }: FirewallSpec, dryRun: boolean): Outcome {
  if (limits === undefined) return rules;
  const { changed, notes } = dryRun
    ? (({ problems, notes }) => ({ changed: problems.length > 0, notes }))(limitsStatus(limits))
    : applyLimits(limits);
  return {
    ...rules,
    changed: rules.changed || changed,
    notes: [...rules.notes, ...notes],
    ...(changed ? { more: [...(rules.more ?? []), limitsText(limits)] } : {}),
  };
}

/**
 * The state of the limits for an operator: a line for each thing that this kernel cannot do or that is wrong. Empty where all
 * is right, or where the configuration has no limits.
 *
 * @param look default: this machine's.
 */
export function limitsLines(
  { limits }: FirewallSpec,
  look: (spec: LimitsSpec) => LimitsStatus = limitsStatus,
): readonly string[] {
  if (limits === undefined) return [];
  const { problems, notes } = look(limits);
  return [...problems, ...notes].map((line) => `limits of connections: ${line}`);
}

/** Removes the limits and adds that to the result of removing the rules. */
export function takeLimits(rules: Outcome, dryRun: boolean): Outcome {
  const changed = removeLimits(dryRun);
  return {
    ...rules,
    changed: rules.changed || changed,
    ...(changed ? { more: [...(rules.more ?? []), removalText] } : {}),
  };
}

/**
 * The limits for the watch, which restores them without starting a process. Never throws: the rules that keep the instance role
 * from users are restored afterwards and must not depend on this.
 */
export function limitsGuard(): {
  problems(spec: FirewallSpec): readonly string[];
  restore(spec: FirewallSpec): void;
} {
  const look = limitsLook();
  const attempt = <T>(work: () => T, instead: T): T => {
    try {
      return work();
    } catch {
      return instead;
    }
  };
  return {
    problems: ({ limits }) => (limits === undefined ? [] : attempt(() => look(limits).problems, [])),
    restore({ limits }) {
      if (limits !== undefined) attempt<unknown>(() => applyLimits(limits), null);
    },
  };
}
