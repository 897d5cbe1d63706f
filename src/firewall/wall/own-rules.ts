import { CLOSED_TABLE } from "../closed-state.ts";
import type { Family } from "../types.ts";
import { PROTOCOL_KERNEL } from "./rtnetlink.ts";
import { MAX_UID, TABLE_LOCAL, TABLES } from "./tables.ts";
import type { RoutingRule, RoutingState } from "./types.ts";

/** The rules of the second wall: how they are made, and how they are known among others. Pure. */

const OUR_TABLES: ReadonlySet<number> = new Set(Object.values(TABLES));

/** What a rule of ours applies to. */
export type Selector = Omit<RoutingRule, "family" | "preference" | "action" | "protocol">;

/** A rule of ours. */
export const at = (family: Family, selector: Selector, action: RoutingRule["action"]): RoutingRule => ({
  family,
  preference: 0,
  ...selector,
  action,
  protocol: PROTOCOL_KERNEL,
});

/** The rule for the table `local`. */
export const localTable = (family: Family, preference: number): RoutingRule => ({
  ...at(family, {}, { kind: "lookup", table: TABLE_LOCAL }),
  preference,
});

const isPlain = (rule: RoutingRule): boolean =>
  rule.foreign !== true &&
  [rule.from, rule.to, rule.iif, rule.oif, rule.tcpPort, rule.tcpSourcePort, rule.tcp, rule.uids].every(
    (part) => part === undefined,
  );

/** Whether a rule is the one for the table `local`. */
export const isLocal = (rule: RoutingRule): boolean =>
  isPlain(rule) && rule.action.kind === "lookup" && rule.action.table === TABLE_LOCAL;

/**
 * Whether a rule belongs to the closed state (closed-state.ts): it applies to all users, and names an address or a port, where
 * the wall's rules name both. The closed state's `prohibit` for the configured upstream names both; it counts as the wall's.
 */
export function isClosedRule(rule: RoutingRule): boolean {
  if (rule.preference !== 0 || rule.protocol !== PROTOCOL_KERNEL || rule.foreign === true) return false;
  if (rule.action.kind === "lookup") return rule.action.table === CLOSED_TABLE;
  const everybody = rule.uids?.[0] === 1 && rule.uids[1] === MAX_UID;
  const half = (rule.to === undefined) !== (rule.tcpPort === undefined);
  return rule.action.kind === "prohibit" && everybody && half && rule.from === undefined;
}

/** Whether a rule belongs to the wall, for any configuration, also where another program has copied or changed it. */
export function isWallRule(rule: RoutingRule): boolean {
  if (rule.protocol !== PROTOCOL_KERNEL || isClosedRule(rule)) return false;
  if (rule.action.kind === "lookup" && OUR_TABLES.has(rule.action.table)) return true;
  if (rule.action.kind === "nop") return isPlain(rule);
  if (rule.preference === 1) return isLocal(rule);
  return rule.preference === 0 && rule.action.kind !== "lookup" && !isPlain(rule);
}

/** Whether any rule of the wall is present. */
export const wallIsThere = (state: RoutingState): boolean => state.rules.some(isWallRule);
