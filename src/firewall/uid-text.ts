import type { ParsedRule } from "./rule-text.ts";
import { parseRule } from "./rule-text.ts";
import { rulesOf } from "./state.ts";
import type { RuleSet } from "./types.ts";

/**
 * Uids in the text of rules. iptables looks `--uid-owner 990` up as an account's name first (extensions/libxt_owner.c,
 * owner_mt_parse: getpwnam, then owner_parse_range), and accounts named `990` or `0-4294967294` exist where names are
 * student or employee numbers. A range may be written with a colon, which no name in passwd(5) can hold. Pure.
 */

/** A quoted text, which is somebody's comment, or an owner option with a number or a range of them. */
const OWNER = /"(?:[^"\\]|\\.)*"|(?<=^| )(--[ug]id-owner) (\d+)(?:[-:](\d+))?(?=$| )/gm;

/** The same rules with every uid and gid as a range with a colon: `--uid-owner 990:990`. */
export const spellUids = (text: string): string =>
  text.replaceAll(OWNER, (whole, option?: string, first?: string, last?: string) =>
    option === undefined || first === undefined ? whole : `${option} ${first}:${last ?? first}`,
  );

const OWNED = /^--uid-owner (\S+)$/;

/** The uids that a rule exempts, as written in it. */
function exempted({ matches, target }: ParsedRule): string[] {
  if (target !== "RETURN" && target !== "DNAT" && target !== "ACCEPT") return [];
  return matches
    .filter(({ name }) => name === "owner")
    .flatMap(({ options }) => options.flatMap((option) => OWNED.exec(option)?.[1] ?? []));
}

/** The uids that the rules of our chains exempt and that are not in `uids`, as written in the rules. */
export function strangersIn(current: RuleSet, uids: readonly number[]): string[] {
  const known = new Set(uids.map(String));
  const found = (["filter", "nat"] as const).flatMap((table) =>
    rulesOf(current, table, "IMDSPROXY").flatMap((rule) => exempted(parseRule(rule))),
  );
  return [...new Set(found)].filter((uid) => !known.has(uid));
}
