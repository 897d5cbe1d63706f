import { familyOf, HYPERPOD_AGENT, hostMask, METADATA, redirectTarget, sameEndpoint } from "../addresses.ts";
import { CLOSED_TABLE } from "../closed-state.ts";
import { guardedEndpoints } from "../rules.ts";
import { FAMILIES, type Family, type FirewallSpec } from "../types.ts";
import { LINK_LOCAL, PROTOCOL_KERNEL } from "./rtnetlink.ts";
import { routeText, ruleText } from "./text.ts";
import type { Change, Link, LocalAddress, Route, RoutingRule, RoutingState } from "./types.ts";

/**
 * The second wall: routing rules by uid that keep users from the instance role also while the iptables rules are away. They
 * are the kernel's own: no tool for the firewall touches them, and they need no process, module, disk or account database.
 * Pure: what should be there, what differs, and the changes that put it right.
 *
 * Why routing and nothing else: a BPF program at the root of cgroup v2 sees every network namespace, cannot be seen by who
 * looks after the node, and takes one of 64 places that others need too. An nftables table with an owner makes an operator's
 * own `flush ruleset` fail as a whole.
 *
 * The rules stand at preference 0, before the table `local`, because the upstream may be an address of this node. For that,
 * a second rule for `local` is added behind them, and then the first is deleted, so that there is always one. In IPv4 they
 * rest on these facts of the kernel (linux 4.17 to 6.18):
 * - net/ipv4/tcp_ipv4.c, tcp_v4_connect: a connection is routed with the uid of its socket, before nat OUTPUT sees its
 *   first packet. A user's look-up has to succeed for the redirect to work: it leads to lo, never to a gateway, so that
 *   without the redirect the packet ends on this node.
 * - net/ipv4/netfilter.c, ip_route_me_harder: what nat OUTPUT has given another destination is routed again, **without** the
 *   uid. So users' connections to the metadata address get a source address of their own, and from there leads only one
 *   way: to the proxy. Whoever binds another address to their socket is refused.
 * - net/ipv4/route.c, ip_route_output_key_hash_rcu: where a socket is bound to an interface, a look-up that fails is ignored
 *   and the destination is taken as on the link (SO_BINDTODEVICE is everybody's since linux 5.7). So what is to be closed
 *   leads to a route before the `prohibit`: of the kind `multicast`, which connect(2) refuses (ENETUNREACH) and which no
 *   packet survives, since nobody on lo is a member of the group (__mkroute_output).
 * In IPv6, packets are routed again with the uid, and a rule that prohibits holds bound sockets too (a route that does so not:
 * it is on lo, and a look-up for another interface passes it by).
 *
 * Of an agent that listens on every address, the port is closed at each address that the node has at that moment. One that comes
 * later, while the watch does not run, is in no table of ours; so a user's look-up for that port never sees the table `local`: a
 * goto leads past it, to what routes to other machines. A packet to an address of this node then leaves for the link, where
 * nobody has the address, and where it came back it would be dropped, as its source is this node's (__fib_validate_source in
 * net/ipv4/fib_frontend.c; not so in IPv6, where another host sends the like anyway).
 */

/** Tables of our own; no other program is known to use the numbers. Odd, and between none of the usual ones. */
export const TABLES = {
  /** Users' way to the redirect: the metadata address, on lo. */
  pass: 1692541,
  /** Where every connection ends. */
  sink: 1692543,
  /** The addresses of this node, each of which ends the same way: for an agent that listens on all of them. */
  local: 1692545,
  /** The proxy's own address. */
  listener: 1692547,
  /** Where containers' packets pass the chain FORWARD, whose reset answers them, and end. */
  containers: 1692549,
  /** The same for each address of this node, in IPv4. */
  localContainers: 1692551,
} as const;
const OUR_TABLES: ReadonlySet<number> = new Set(Object.values(TABLES));
/** RT_TABLE_LOCAL */
const TABLE_LOCAL = 255;

/** What users' connections to the metadata address come from: an address of lo that nobody else is given. */
export const USERS_SOURCE = "127.169.254.1";
/** (uid_t)-1 is no uid. */
const MAX_UID = 4_294_967_294;
/** IP6_RT_PRIO_USER: the metric that IPv6 gives a route without one. */
const METRIC6 = 1024;
/** Index of lo, in every network namespace (LOOPBACK_IFINDEX). */
const LO = 1;

const isLinkLocal = (address: string): boolean => /^fe[89ab]/.test(address);

/** Everything that the firewall should have of the wall at this moment. */
export interface WantedWall {
  /** At preference 0, in their order, before `local`. */
  readonly rules: readonly RoutingRule[];
  /**
   * Where rules at preference 0 lead on to: at preference 1 a further rule for `local`, for what is none of the containers';
   * behind every `local` a rule that does nothing, for what may not be looked up there.
   */
  readonly after: readonly RoutingRule[];
  readonly routes: readonly Route[];
}

export const NO_WALL: WantedWall = { rules: [], after: [], routes: [] };

/** The uids between the exempt ones, as ranges, root left out. */
export function usersBut(exempt: readonly number[]): (readonly [number, number])[] {
  const gaps: (readonly [number, number])[] = [];
  let first = 1;
  for (const uid of [...new Set(exempt)].sort((a, b) => a - b)) {
    if (uid < first) continue;
    if (uid > first) gaps.push([first, uid - 1]);
    first = uid + 1;
  }
  if (first <= MAX_UID) gaps.push([first, MAX_UID]);
  return gaps;
}

type Selector = Omit<RoutingRule, "family" | "preference" | "action" | "protocol">;
const at = (family: Family, selector: Selector, action: RoutingRule["action"]): RoutingRule => ({
  family,
  preference: 0,
  ...selector,
  action,
  protocol: PROTOCOL_KERNEL,
});
const lookup = (table: number): RoutingRule["action"] => ({ kind: "lookup", table });
const PROHIBIT: RoutingRule["action"] = { kind: "prohibit" };
const localTable = (family: Family, preference: number): RoutingRule => ({
  ...at(family, {}, lookup(TABLE_LOCAL)),
  preference,
});

/** A preference behind each rule for the table `local`. */
const behindLocal = (rules: readonly RoutingRule[], family: Family): number =>
  1 +
  Math.max(
    1,
    ...rules.filter((rule) => rule.family === family && isLocal(rule)).map((rule) => rule.preference),
  );

/**
 * Only to other machines; where the rule that it leads to is gone (`ip rule flush`), to nobody. Not by `prohibit`: with that it would
 * be a rule of the closed state.
 */
const elsewhere = (family: Family, selector: Selector, behind: number): RoutingRule[] => [
  at(family, selector, { kind: "goto", preference: behind }),
  at(family, selector, { kind: "unreachable" }),
];

/** The rules for users: uid by uid range. */
function userRules(
  spec: FirewallSpec,
  family: Family,
  { addresses, rules }: Pick<RoutingState, "addresses" | "rules">,
): RoutingRule[] {
  const metadata = METADATA[family];
  const closed = guardedEndpoints(spec, family).filter((endpoint) => !sameEndpoint(endpoint, metadata));
  const sink = family === "ipv4" ? [lookup(TABLES.sink), PROHIBIT] : [PROHIBIT];
  // In IPv6 a route that prohibits is on lo: a look-up for another interface passes it by, a rule that prohibits holds all.
  const own = addresses.filter((one) => one.family === "ipv6" && !isLinkLocal(one.address));
  // Link-local ones as a whole, and not this node's alone: an interface gets one by itself, a moment after it comes up. Another
  // host's is closed with them at the agent's port, where nobody asks for anything.
  const ownAddresses =
    family === "ipv6" ? [LINK_LOCAL, ...[...new Set(own.map(({ address }) => address))].sort()] : [];
  return usersBut(spec.exemptUids).flatMap((uids) => {
    const toMetadata = { to: metadata.address, tcpPort: metadata.port, uids };
    const pass: Selector[] =
      family === "ipv6"
        ? [toMetadata]
        : ["0.0.0.0", USERS_SOURCE].map((from): Selector => ({ from, ...toMetadata }));
    return [
      ...pass.map((selector) => at(family, selector, lookup(TABLES.pass))),
      ...sink.map((action) => at(family, toMetadata, action)),
      ...closed.flatMap(({ address, port }) =>
        sink.map((action) => at(family, { to: address, tcpPort: port, uids }, action)),
      ),
      ...(spec.localPorts ?? []).flatMap((port) => [
        ...ownAddresses.map((to) => at(family, { to, tcpPort: port, uids }, PROHIBIT)),
        at(family, { tcpPort: port, uids }, lookup(TABLES.local)),
        // What is sent over lo arrives on this node, whatever the route (__mkroute_output).
        ...(family === "ipv4" ? [at(family, { oif: "lo", tcpPort: port, uids }, lookup(TABLES.sink))] : []),
        ...elsewhere(family, { tcpPort: port, uids }, behindLocal(rules, family)),
      ]),
    ];
  });
}

/**
 * What became of users' connections to the metadata address in nat OUTPUT: the proxy's, or nobody's. Any port of the proxy's address
 * but an upstream's: while the port changes, the redirect to the old one and that to the new one both lead somewhere.
 *
 * Where the metadata address is this node's, what nat OUTPUT did not redirect reaches who listens there: a packet that lo
 * carries keeps the route that its sender had, and is delivered (__mkroute_output: RTCF_LOCAL). So its answer is held: a
 * listener that has no route for its SYN-ACK drops the SYN (tcp_conn_request in net/ipv4/tcp_input.c). What the proxy answers
 * gets the metadata address after it was routed. Only there, for the reset of our filter rule looks the same to routing: with
 * these rules users' connections wait in place of being refused while the redirect alone is away.
 */
function sourceRules(spec: FirewallSpec, addresses: readonly LocalAddress[]): RoutingRule[] {
  const { address, port: ours } = redirectTarget(spec.listen, "ipv4");
  const metadata = METADATA.ipv4;
  const isHere = addresses.some((one) => one.address === metadata.address);
  // The agent's always: it may come after the rules.
  const upstreams = [...new Set([HYPERPOD_AGENT.port, ...(spec.localPorts ?? [])])];
  return [
    ...upstreams
      .filter((port) => port !== ours)
      .flatMap((port) =>
        [lookup(TABLES.sink), PROHIBIT].map((action) =>
          at("ipv4", { from: USERS_SOURCE, tcpPort: port }, action),
        ),
      ),
    at("ipv4", { from: USERS_SOURCE, to: address, tcp: true }, lookup(TABLES.listener)),
    at("ipv4", { from: USERS_SOURCE, tcp: true }, lookup(TABLES.sink)),
    at("ipv4", { from: USERS_SOURCE, tcp: true }, PROHIBIT),
    ...(isHere
      ? [lookup(TABLES.sink), PROHIBIT].map((action) =>
          at("ipv4", { from: metadata.address, to: USERS_SOURCE, tcp: true }, action),
        )
      : []),
  ];
}

/** What comes from outside, bridges included: such packets have no uid. */
function containerRules(spec: FirewallSpec, family: Family, present: readonly RoutingRule[]): RoutingRule[] {
  if (spec.containers === "leave") return [];
  const onward: RoutingRule["action"] = { kind: "goto", preference: 1 };
  const { upstream } = spec;
  const isSomebodyElse = familyOf(upstream) === family && !sameEndpoint(upstream, METADATA[family]);
  return [
    at(family, { iif: "lo" }, onward),
    // An agent in a network namespace of its own asks the metadata service itself.
    ...(isSomebodyElse ? [at(family, { from: upstream.address }, onward)] : []),
    ...guardedEndpoints(spec, family).flatMap(({ address, port }) =>
      [lookup(TABLES.containers), PROHIBIT].map((action) =>
        at(family, { to: address, tcpPort: port }, action),
      ),
    ),
    ...(spec.localPorts ?? []).flatMap((port) => [
      at(family, { tcpPort: port }, lookup(family === "ipv4" ? TABLES.localContainers : TABLES.local)),
      ...elsewhere(family, { tcpPort: port }, behindLocal(present, family)),
    ]),
  ];
}

/** The routes in our tables. */
function wantedRoutes(
  spec: FirewallSpec,
  links: readonly Link[],
  addresses: readonly LocalAddress[],
): Route[] {
  const routes: Route[] = [];
  const add = (
    family: Family,
    table: number,
    kind: Route["kind"],
    to: string,
    { index = LO, metric = family === "ipv6" ? METRIC6 : 0, source = undefined as string | undefined } = {},
  ) =>
    routes.push({
      family,
      table,
      kind,
      to,
      interface: index,
      metric,
      ...(source === undefined ? {} : { source }),
    });
  const target = redirectTarget(spec.listen, "ipv4");
  add("ipv4", TABLES.pass, "unicast", hostMask(METADATA.ipv4), { source: USERS_SOURCE });
  add("ipv4", TABLES.listener, "local", hostMask(target));
  for (const { index } of links) {
    add("ipv4", TABLES.sink, "multicast", "default", { index, metric: index });
  }
  // A kernel with IPv6 switched off for lo takes no IPv6 routes: there is nobody to be reached then, and `prohibit` stays.
  const ipv6 = addresses.some(({ family, interface: index }) => family === "ipv6" && index === LO);
  if (ipv6) add("ipv6", TABLES.pass, "unicast", hostMask(METADATA.ipv6));
  if (spec.containers !== "leave") {
    add("ipv4", TABLES.containers, "unicast", "default");
    if (ipv6) add("ipv6", TABLES.containers, "unicast", "default");
  }
  if ((spec.localPorts ?? []).length === 0) return routes;
  add("ipv4", TABLES.local, "multicast", "127.0.0.0/8", { metric: LO });
  if (ipv6) add("ipv6", TABLES.local, "prohibit", LINK_LOCAL);
  for (const { family, address, interface: index } of addresses) {
    if (family === "ipv6" && isLinkLocal(address)) continue;
    if (family === "ipv6") add(family, TABLES.local, "prohibit", `${address}/128`);
    else if (!address.startsWith("127.")) {
      // On lo, where such packets go; and on its own interface, for sockets that are bound to it.
      if (spec.containers !== "leave") add(family, TABLES.localContainers, "unicast", `${address}/32`);
      for (const one of index === LO ? [LO] : [LO, index]) {
        add(family, TABLES.local, "multicast", `${address}/32`, { index: one, metric: one });
      }
    }
  }
  return [...new Map(routes.map((route) => [routeText(route), route])).values()];
}

/** What should be there, given the interfaces and addresses of the moment. */
export function wantedWall(
  spec: FirewallSpec,
  { rules: present, links, addresses }: Pick<RoutingState, "rules" | "links" | "addresses">,
  families: readonly Family[] = FAMILIES,
): WantedWall {
  const rules = families.flatMap((family) => [
    ...userRules(spec, family, { addresses, rules: present }),
    ...(family === "ipv4" ? sourceRules(spec, addresses) : []),
    ...containerRules(spec, family, present),
  ]);
  return {
    rules,
    after: families.flatMap((family) => [
      ...(spec.containers === "leave" ? [] : [localTable(family, 1)]),
      ...((spec.localPorts ?? []).length === 0
        ? []
        : [{ ...at(family, {}, { kind: "nop" }), preference: behindLocal(present, family) }]),
    ]),
    routes: wantedRoutes(spec, links, addresses).filter(({ family }) => families.includes(family)),
  };
}

const isPlain = (rule: RoutingRule): boolean =>
  rule.foreign !== true &&
  [rule.from, rule.to, rule.iif, rule.oif, rule.tcpPort, rule.tcp, rule.uids].every(
    (part) => part === undefined,
  );

/** Whether a rule is the one for the table `local`. */
const isLocal = (rule: RoutingRule): boolean =>
  isPlain(rule) && rule.action.kind === "lookup" && rule.action.table === TABLE_LOCAL;

/**
 * Whether a rule is of the closed state (closed-state.ts): for all users, and not by address and port as ours are. Of the
 * configured upstream its `prohibit` is like one of ours, and goes as such.
 */
export function isClosedRule(rule: RoutingRule): boolean {
  if (rule.preference !== 0 || rule.protocol !== PROTOCOL_KERNEL || rule.foreign === true) return false;
  if (rule.action.kind === "lookup") return rule.action.table === CLOSED_TABLE;
  const everybody = rule.uids?.[0] === 1 && rule.uids[1] === MAX_UID;
  const half = (rule.to === undefined) !== (rule.tcpPort === undefined);
  return rule.action.kind === "prohibit" && everybody && half && rule.from === undefined;
}

/** Whether a rule is the wall's, of whatever configuration, and also where somebody has made more of it. */
export function isWallRule(rule: RoutingRule): boolean {
  if (rule.protocol !== PROTOCOL_KERNEL || isClosedRule(rule)) return false;
  if (rule.action.kind === "lookup" && OUR_TABLES.has(rule.action.table)) return true;
  if (rule.action.kind === "nop") return isPlain(rule);
  if (rule.preference === 1) return isLocal(rule);
  return rule.preference === 0 && rule.action.kind !== "lookup" && !isPlain(rule);
}

/** How the wall differs, and the changes that make it right, in an order in which nothing is ever open or without `local`. */
export interface WallPlan {
  /** In words, each thing that differs. */
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
  const problems: string[] = [];
  const changes: Change[] = [];
  const late: Change[] = [];
  for (const family of families) {
    const all = state.rules.filter((rule) => rule.family === family);
    // Somebody (Cilium) may have moved `local`: then it is theirs to place, and ours come before it in any case.
    const moved = !all.some((rule) => isLocal(rule) && rule.preference === 0) && all.some(isLocal);
    const local = localTable(family, 0);
    const rules = wanted.rules.filter((rule) => rule.family === family);
    const want = [...rules, ...(moved ? [] : [local])];
    const have = all.filter(
      (rule) => rule.preference === 0 && (isWallRule(rule) || (isLocal(rule) && !moved)),
    );
    // The protocol of a `local` that was there before us is the kernel's since linux 4.17; nobody compares it.
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
      // All anew, behind what is there. Then the `local` that stands before them goes, and the old ones last, in the
      // kernel's order: a deletion takes the first match.
      const gone = [...have.filter(isLocal), ...have.filter((rule) => !isLocal(rule))];
      changes.push(...want.map((rule): Change => ({ kind: "add-rule", rule })));
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
  }
  const wantRoutes = wanted.routes.filter(({ family }) => families.includes(family));
  const haveKeys = new Set(state.routes.map(routeText));
  const wantKeys = new Set(wantRoutes.map(routeText));
  const missing = wantRoutes.filter((route) => !haveKeys.has(routeText(route)));
  const surplus = state.routes.filter((route) => !wantKeys.has(routeText(route)));
  problems.push(...missing.map((route) => `missing: ip ${routeText(route)}`));
  problems.push(...surplus.map((route) => `one too many: ip ${routeText(route)}`));
  return {
    problems,
    changes: [
      // A route that has changed has to make room for itself; the rules hold by `prohibit` meanwhile.
      ...surplus
        .filter((route) => missing.some((one) => samePlace(one, route)))
        .map((route): Change => ({ kind: "delete-route", route })),
      ...missing.map((route): Change => ({ kind: "add-route", route })),
      ...changes,
      ...late,
      ...surplus
        .filter((route) => !missing.some((one) => samePlace(one, route)))
        .map((route): Change => ({ kind: "delete-route", route })),
    ],
  };
}

const samePlace = (a: Route, b: Route): boolean =>
  a.family === b.family && a.table === b.table && a.to === b.to && a.metric === b.metric;

/** Takes away what there is of the closed state, its routes with it. The table `local` stays where it is. */
export const planClosedEnd = ({ rules, routes }: RoutingState): Change[] => [
  ...rules.filter(isClosedRule).map((rule): Change => ({ kind: "delete-rule", rule })),
  ...routes
    .filter(({ table }) => table === CLOSED_TABLE)
    .map((route): Change => ({ kind: "delete-route", route })),
];

/** Whether anything of the wall is there. */
export const wallIsThere = (state: RoutingState): boolean => state.rules.some(isWallRule);
