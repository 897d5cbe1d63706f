import { CLOSED_TABLE } from "../closed-state.ts";
import { FAMILIES, type Family } from "../types.ts";
import { isClosedRule, isLocal, isWallRule, localTable } from "./own-rules.ts";
import { routeText, ruleText } from "./text.ts";
import type { Change, Route, RoutingRule, RoutingState } from "./types.ts";
import type { WantedWall } from "./wanted.ts";

/** The changes that lead from the routing rules and routes of the kernel to the wanted ones. Pure. */

/**
 * Whether a request to delete `rule` would delete `other` where that comes first: the kernel compares only what the request names
 * (rule_find).
 */
const takes = (rule: RoutingRule, other: RoutingRule): boolean =>
  JSON.stringify(rule.action) === JSON.stringify(other.action) &&
  ([rule.from, rule.to, rule.iif, rule.oif, rule.tcpPort, rule.tcpSourcePort, rule.uids] as const).every(
    (part, index) =>
      part === undefined ||
      JSON.stringify(part) ===
        JSON.stringify(
          [other.from, other.to, other.iif, other.oif, other.tcpPort, other.tcpSourcePort, other.uids][index],
        ),
  );

/** The differences, and the changes that correct them. Their order keeps the wall closed and a rule for `local` present throughout. */
export interface WallPlan {
  /** A line for each difference. */
  readonly problems: readonly string[];
  readonly changes: readonly Change[];
}

const counted = (keys: readonly string[]): Map<string, number> => {
  const counts = new Map<string, number>();
  for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1);
  return counts;
};
/** What is in `a` more often than in `b`. */
function more(a: readonly string[], b: readonly string[]): string[] {
  const have = counted(b);
  return [...counted(a)].filter(([key, count]) => count > (have.get(key) ?? 0)).map(([key]) => key);
}

/** Compares the kernel's state with what it should be. */
export function planWall(state: RoutingState, wanted: WantedWall, families = FAMILIES): WallPlan {
  const rules = families.map((family) => planRules(family, state.rules, wanted));
  const routes = planRoutes(
    state.routes,
    wanted.routes.filter(({ family }) => families.includes(family)),
  );
  return {
    problems: [...rules.flatMap(({ problems }) => problems), ...routes.problems],
    changes: [
      ...routes.before,
      ...rules.flatMap(({ changes }) => changes),
      ...rules.flatMap(({ late }) => late),
      ...routes.after,
    ],
  };
}

/** The differences of one family's rules; `late` are the changes that come after those of the other family. */
function planRules(
  family: Family,
  present: readonly RoutingRule[],
  wanted: WantedWall,
): { readonly problems: string[]; readonly changes: Change[]; readonly late: Change[] } {
  const problems: string[] = [];
  const changes: Change[] = [];
  const late: Change[] = [];
  const all = present.filter((rule) => rule.family === family);
  // Another program, such as Cilium, may have moved the rule for `local`. It is left where it is, after ours.
  const moved = !all.some((rule) => isLocal(rule) && rule.preference === 0) && all.some(isLocal);
  const local = localTable(family, 0);
  const rules = wanted.rules.filter((rule) => rule.family === family);
  const want = [...rules, ...(moved ? [] : [local])];
  const have = all.filter((rule) => rule.preference === 0 && (isWallRule(rule) || (isLocal(rule) && !moved)));
  // The rule for `local` is compared without its protocol, which kernels before 4.17 did not set.
  const key = (rule: RoutingRule) => ruleText(isLocal(rule) ? local : rule);
  const [wantKeys, haveKeys] = [want.map(key), have.map(key)];
  const wantAfter = wanted.after.filter((rule) => rule.family === family);
  const haveAfter = all.filter((rule) => rule.preference > 0 && isWallRule(rule));
  const label = family === "ipv4" ? "" : "-6 ";
  for (const rule of wantAfter) {
    if (haveAfter.some((one) => ruleText(one) === ruleText(rule))) continue;
    problems.push(`missing: ip ${label}rule ${ruleText(rule)}`);
    changes.push({ kind: "add-rule", rule });
  }
  if (wantKeys.join("\n") !== haveKeys.join("\n")) {
    const [missing, surplus] = [more(wantKeys, haveKeys), more(haveKeys, wantKeys)];
    problems.push(...missing.map((text) => `missing: ip ${label}rule ${text}`));
    problems.push(...surplus.map((text) => `one too many: ip ${label}rule ${text}`));
    if (missing.length + surplus.length === 0) problems.push(`ip ${label}rule: in another order`);
    // From the first difference on, all rules are added again after the present ones. Then the rule for `local` before them is
    // deleted, and the old ones last, in the kernel's order, because a deletion takes the first match. The rules before the
    // first difference stay, unless a deletion could hit one of them: between the deletion of a rule that lets pass and that of
    // one that refuses, connections would be refused.
    const same = wantKeys.findIndex((text, index) => text !== haveKeys[index]);
    const before = same === -1 ? wantKeys.length : same;
    const isSafe = have.slice(before).every((rule) => !have.slice(0, before).some((one) => takes(rule, one)));
    const kept = isSafe ? before : 0;
    const old = have.slice(kept);
    const gone = [...old.filter(isLocal), ...old.filter((rule) => !isLocal(rule))];
    changes.push(...want.slice(kept).map((rule): Change => ({ kind: "add-rule", rule })));
    changes.push(...gone.map((rule): Change => ({ kind: "delete-rule", rule })));
  }
  const rightAfter = wantAfter.map(ruleText);
  for (const rule of haveAfter) {
    const at = rightAfter.indexOf(ruleText(rule));
    if (at !== -1) rightAfter.splice(at, 1);
    if (at !== -1) continue;
    problems.push(`one too many: ip ${label}rule ${ruleText(rule)}`);
    late.push({ kind: "delete-rule", rule });
  }
  return { problems, changes, late };
}

/** The differences of the routes: the changes that come before those of the rules, and those that come after them. */
function planRoutes(
  present: readonly Route[],
  wanted: readonly Route[],
): { readonly problems: string[]; readonly before: Change[]; readonly after: Change[] } {
  const presentKeys = new Set(present.map(routeText));
  const wantedKeys = new Set(wanted.map(routeText));
  const missing = wanted.filter((route) => !presentKeys.has(routeText(route)));
  const surplus = present.filter((route) => !wantedKeys.has(routeText(route)));
  const isReplaced = (route: Route) => missing.some((one) => samePlace(one, route));
  const remove = (route: Route): Change => ({ kind: "delete-route", route });
  return {
    problems: [
      ...missing.map((route) => `missing: ip ${routeText(route)}`),
      ...surplus.map((route) => `one too many: ip ${routeText(route)}`),
    ],
    before: [
      // A changed route must be deleted before it is added. Meanwhile the `prohibit` rules apply.
      ...surplus.filter(isReplaced).map(remove),
      ...missing.map((route): Change => ({ kind: "add-route", route })),
    ],
    after: surplus.filter((route) => !isReplaced(route)).map(remove),
  };
}

const samePlace = (a: Route, b: Route): boolean =>
  a.family === b.family && a.table === b.table && a.to === b.to && a.metric === b.metric;

/** The changes that remove the closed state's rules and routes. The rule for the table `local` stays where it is. */
export const planClosedEnd = ({ rules, routes }: RoutingState): Change[] => [
  ...rules.filter(isClosedRule).map((rule): Change => ({ kind: "delete-rule", rule })),
  ...routes
    .filter(({ table }) => table === CLOSED_TABLE)
    .map((route): Change => ({ kind: "delete-route", route })),
];
