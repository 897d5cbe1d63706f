import { ORIGINAL_ENTRY } from "./addresses.ts";
import { canonicalRule, metadataRedirect, parseRule } from "./rule-text.ts";
import { rulesOf } from "./state.ts";
import type { RuleSet } from "./types.ts";

/** The HyperPod agent's entry in nat OUTPUT, as it is now. */
export interface OriginalEntry {
  /** How many copies of exactly the agent's entry there are. */
  readonly copies: number;
  /** Whether one of them comes before the jump to our chain, or there is no such jump. */
  readonly aboveOurs: boolean;
}

/** The entry is compared by its parts; a comment on it does not matter. */
const isOriginal = (rule: string): boolean =>
  canonicalRule(rule.replace(/-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) ?/g, "")) ===
  canonicalRule(ORIGINAL_ENTRY);

/** Looks for the agent's entry. Pure. */
export function originalEntry(current: RuleSet): OriginalEntry {
  const output = rulesOf(current, "nat", "OUTPUT");
  const first = output.findIndex(isOriginal);
  const ours = output.findIndex((rule) => parseRule(rule).target === "IMDSPROXY");
  return {
    copies: output.filter(isOriginal).length,
    aboveOurs: first !== -1 && (ours === -1 || first < ours),
  };
}

/** The transaction that takes away every copy; null where there is none. */
export function removeOriginal(current: RuleSet): string | null {
  const copies = rulesOf(current, "nat", "OUTPUT").filter(isOriginal);
  if (copies.length === 0) return null;
  return `*nat\n${copies.map((rule) => `-D OUTPUT ${rule}\n`).join("")}COMMIT\n`;
}

/** The transaction that puts the entry back, after everything else; null where it is there. */
export function restoreOriginal(current: RuleSet): string | null {
  if (originalEntry(current).copies > 0) return null;
  return `*nat\n-A OUTPUT ${ORIGINAL_ENTRY}\nCOMMIT\n`;
}

/** Where nat OUTPUT sends every caller of the metadata address, if an entry does: `169.254.0.2:9081`. */
export function redirectOfEveryone(current: RuleSet): string | null {
  for (const rule of rulesOf(current, "nat", "OUTPUT")) {
    const target = metadataRedirect(rule);
    if (target !== null) return target;
  }
  return null;
}

/** Where our own chain sends the first exempt uid: the upstream that the rules were made for. */
export function redirectOfExempt(current: RuleSet): string | null {
  for (const text of rulesOf(current, "nat", "IMDSPROXY")) {
    const rule = parseRule(text);
    const exempts = rule.matches.some(({ name, options }) => name === "owner" && options.length === 1);
    const to = /^--to-destination (\S+)$/.exec(rule.targetOptions.join(" "));
    if (exempts && rule.target === "DNAT" && to !== null) return to[1] ?? null;
  }
  return null;
}
