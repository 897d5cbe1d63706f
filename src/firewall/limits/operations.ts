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

/** The limits beside the rules of iptables: what bringing and taking the whole firewall does besides. */

/** Adds to what was done with the rules that the limits are in place, or in a dry run what would be given to nft. */
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
 * What an operator should know of the limits once the rules are there, a line each: what this kernel cannot do, and what is
 * not as it should be. Nothing where all is right, or where the configuration wants none.
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

/** Adds to what was done with the rules that the limits are gone. */
export function takeLimits(rules: Outcome, dryRun: boolean): Outcome {
  const changed = removeLimits(dryRun);
  return {
    ...rules,
    changed: rules.changed || changed,
    ...(changed ? { more: [...(rules.more ?? []), removalText] } : {}),
  };
}

/**
 * The limits as the watch has them: what is missing is put back by the kernel alone. Never throws: the rules that keep the
 * instance role from users come back after it, and do not depend on it.
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
