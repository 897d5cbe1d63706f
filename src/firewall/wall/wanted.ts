import { familyOf, HYPERPOD_AGENT, hostMask, METADATA, redirectTarget, sameEndpoint } from "../addresses.ts";
import { agentEndpoints, FIRST_PERSON, guardedEndpoints } from "../rules.ts";
import { FAMILIES, type Family, type FirewallSpec } from "../types.ts";
import { at, isLocal, localTable, type Selector } from "./own-rules.ts";
import { LINK_LOCAL } from "./rtnetlink.ts";
import { MAX_UID, TABLES, USERS_SOURCE } from "./tables.ts";
import { routeText } from "./text.ts";
import type { Link, LocalAddress, Route, RoutingRule, RoutingState } from "./types.ts";

/**
 * The second wall: routing rules by uid that keep users from the instance role while the iptables rules are missing. The
 * kernel alone enforces them. No firewall tool changes them, and they need no process, module, disk or account database.
 * Pure: this file computes the wanted rules and routes, and plan.ts the changes that lead to them.
 *
 * Two alternatives were rejected. A BPF program at the root of cgroup v2 affects every network namespace, is hard to find for
 * an administrator, and takes one of 64 places. An nftables table with an owner makes an operator's `flush ruleset` fail.
 *
 * The rules have preference 0 and come before the rule for the table `local`, because the upstream may be an address of this
 * node. A second rule for `local` is added after them before the first one is deleted, so that there is always one. In IPv4
 * the rules depend on these facts of the kernel (linux 4.17 to 6.18):
 * - net/ipv4/tcp_ipv4.c, tcp_v4_connect: the kernel routes a connection with the uid of its socket before nat OUTPUT sees the
 *   first packet. This look-up must succeed, or the redirect never happens. It leads to lo and never to a gateway, so that
 *   the packet ends on this node where the redirect is missing.
 * - net/ipv4/netfilter.c, ip_route_me_harder: a packet whose destination nat OUTPUT changed is routed again, **without** the
 *   uid, and before linux 5.13 without protocol and ports as well. So users' connections to the metadata address get a source
 *   address of their own, and the only route from that address leads to the proxy, for packets of any protocol. A socket that
 *   is bound to another address is refused.
 * - net/ipv4/route.c, ip_route_output_key_hash_rcu: for a socket that is bound to an interface, the kernel ignores a look-up
 *   that fails and takes the destination as on the link. Since linux 5.7 every user may set SO_BINDTODEVICE. So a route comes
 *   before each `prohibit`: one of type `multicast`, which connect(2) refuses (ENETUNREACH) and which drops every packet,
 *   because nobody on lo is a member of the group (__mkroute_output).
 * In IPv6, the kernel routes packets again with the uid, and a `prohibit` rule also stops bound sockets. A `prohibit` route
 * does not: it is on lo, and a look-up for another interface skips it.
 *
 * Where an agent listens on every address, its port is closed at each address that the node has now. An address that is added
 * while the watch does not run is in none of our tables. So a goto makes users' look-ups for that port skip the table `local`
 * and use only the routes to other machines. A packet to an address of this node is then sent to the link, where no host has
 * the address. If it came back, the kernel would drop it, because its source is an address of this node
 * (__fib_validate_source in net/ipv4/fib_frontend.c; IPv6 has no such check, and any host can send such packets there).
 */

/** IP6_RT_PRIO_USER: the metric that IPv6 gives a route without one. */
const METRIC6 = 1024;
/** Index of lo, in every network namespace (LOOPBACK_IFINDEX). */
const LO = 1;

const isLinkLocal = (address: string): boolean => /^fe[89ab]/.test(address);

/** The rules and routes that the wall should have now. */
export interface WantedWall {
  /** The rules with preference 0, in order, before the one for `local`. */
  readonly rules: readonly RoutingRule[];
  /**
   * The targets of `goto` rules: a further rule for `local` with preference 1, for packets that are not containers'; and
   * after every rule for `local` a rule `nop`, for look-ups that must skip that table.
   */
  readonly after: readonly RoutingRule[];
  readonly routes: readonly Route[];
}

export const NO_WALL: WantedWall = { rules: [], after: [], routes: [] };

/** All uids except root and the exempt ones, as ranges. */
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

const lookup = (table: number): RoutingRule["action"] => ({ kind: "lookup", table });
const PROHIBIT: RoutingRule["action"] = { kind: "prohibit" };

/** A preference after all rules for the table `local`. */
const behindLocal = (rules: readonly RoutingRule[], family: Family): number =>
  1 +
  Math.max(
    1,
    ...rules.filter((rule) => rule.family === family && isLocal(rule)).map((rule) => rule.preference),
  );

/**
 * Rules that allow only routes to other machines; where the target of the goto is missing (after `ip rule flush`), none. The
 * second one is no `prohibit`, because {@link isClosedRule} would take it for a rule of the closed state.
 */
const elsewhere = (family: Family, selector: Selector, behind: number): RoutingRule[] => [
  at(family, selector, { kind: "goto", preference: behind }),
  at(family, selector, { kind: "unreachable" }),
];

/** The rules for users, for each range of uids. */
function userRules(
  spec: FirewallSpec,
  family: Family,
  { addresses, rules }: Pick<RoutingState, "addresses" | "rules">,
): RoutingRule[] {
  const metadata = METADATA[family];
  const closed = agentEndpoints(spec, family);
  const sink = family === "ipv4" ? [lookup(TABLES.sink), PROHIBIT] : [PROHIBIT];
  // IPv6 has rules in place of routes: a `prohibit` route is on lo, and a look-up for another interface skips it.
  const own = addresses.filter((one) => one.family === "ipv6" && !isLinkLocal(one.address));
  // All link-local addresses, not only this node's: an interface gets one by itself a moment after it comes up. So users cannot
  // reach the agent's port on link-local addresses of other hosts either; nothing is expected to listen there.
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
        // A packet that is sent over lo arrives on this node, whatever its route (__mkroute_output).
        ...(family === "ipv4" ? [at(family, { oif: "lo", tcpPort: port, uids }, lookup(TABLES.sink))] : []),
        ...elsewhere(family, { tcpPort: port, uids }, behindLocal(rules, family)),
      ]),
    ];
  });
}

/**
 * The rules by which users send nothing from the proxy's port, and people nothing from an agent's address and port. They can bind
 * the first where net.ipv4.ip_unprivileged_port_start lets them, the second while the agent is away, and then:
 * - a listener without a route for its SYN-ACK answers nobody (tcp_conn_request in net/ipv4/tcp_input.c);
 * - connect(2) fails. Without this, a user could begin connections from there to each port from which others may connect, and have
 *   them stay in the state SYN_SENT: the filter drops their SYNs, or TCP_FASTOPEN_CONNECT sends none. A rightful listener that
 *   sets SO_REUSEADDR comes back nevertheless, but the kernel looks for connections before it looks for a listener
 *   (__inet_lookup), takes each SYN from such a port for the other half of a simultaneous open, and nobody reaches the listener.
 * System accounts may send from an agent's place, because one of them may be the agent's.
 */
function sendingRules(spec: FirewallSpec, family: Family): RoutingRule[] {
  const users = usersBut(spec.exemptUids);
  const people = users.flatMap(([first, last]): (readonly [number, number])[] =>
    last < FIRST_PERSON ? [] : [[Math.max(first, FIRST_PERSON), last]],
  );
  const sink = family === "ipv4" ? [lookup(TABLES.sink), PROHIBIT] : [PROHIBIT];
  const selectors: readonly Selector[] = [
    ...users.map((uids) => ({ tcpSourcePort: spec.listen.port, uids })),
    ...agentEndpoints(spec, family).flatMap(({ address, port }) =>
      people.map((uids) => ({ from: address, tcpSourcePort: port, uids })),
    ),
  ];
  return selectors.flatMap((selector) => sink.map((action) => at(family, selector, action)));
}

/**
 * The rules for users' connections to the metadata address after nat OUTPUT: they may go to the proxy's address and nowhere
 * else. There every port is allowed except an upstream's, so that the redirects to the old and to the new port both work
 * while the port is being changed. Kernels before 5.13 do not see the port of a packet that nat OUTPUT has redirected; there an
 * upstream at the proxy's address cannot answer, because its SYN-ACK has no route.
 *
 * Where the metadata address is an address of this node, a packet that nat OUTPUT did not redirect reaches whoever listens
 * there: it keeps its sender's route over lo, and is delivered (__mkroute_output: RTCF_LOCAL). So the answer is stopped: a
 * listener without a route for its SYN-ACK drops the SYN (tcp_conn_request in net/ipv4/tcp_input.c). The proxy's answers are
 * not affected, because they get the metadata address as their source after they were routed. These rules are added only on
 * such a node, because they also stop the resets of our filter rule: while only the redirect is missing, users' connections
 * time out and are not refused.
 */
function sourceRules(spec: FirewallSpec, addresses: readonly LocalAddress[]): RoutingRule[] {
  const { address, port: ours } = redirectTarget(spec.listen, "ipv4");
  const metadata = METADATA.ipv4;
  const isHere = addresses.some((one) => one.address === metadata.address);
  // Always with the agent's port: the agent may start after the rules are written.
  const upstreams = [...new Set([HYPERPOD_AGENT.port, ...(spec.localPorts ?? [])])].filter(
    (port) => port !== ours,
  );
  const refused = (selector: Selector): RoutingRule[] =>
    [lookup(TABLES.sink), PROHIBIT].map((action) => at("ipv4", selector, action));
  return [
    ...upstreams.flatMap((port) => [
      ...refused({ from: USERS_SOURCE, tcpPort: port }),
      ...refused({ to: USERS_SOURCE, tcpSourcePort: port }),
    ]),
    at("ipv4", { from: USERS_SOURCE, to: address }, lookup(TABLES.listener)),
    ...refused({ from: USERS_SOURCE }),
    ...(isHere ? refused({ from: metadata.address, to: USERS_SOURCE, tcp: true }) : []),
  ];
}

/** The rules for packets that this node did not send, such as containers' through a bridge. They have no uid. */
function containerRules(spec: FirewallSpec, family: Family, present: readonly RoutingRule[]): RoutingRule[] {
  if (spec.containers === "leave") return [];
  const onward: RoutingRule["action"] = { kind: "goto", preference: 1 };
  const { upstream } = spec;
  const isSomebodyElse = familyOf(upstream) === family && !sameEndpoint(upstream, METADATA[family]);
  return [
    at(family, { iif: "lo" }, onward),
    // An agent in a network namespace of its own sends requests to the metadata service through this node.
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
  // Where IPv6 is disabled for lo, the kernel refuses IPv6 routes. Nothing can be reached then, and the `prohibit` rules stay.
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
      // On lo, over which such packets are sent, and on the address's interface, for sockets that are bound to it.
      if (spec.containers !== "leave") add(family, TABLES.localContainers, "unicast", `${address}/32`);
      for (const one of index === LO ? [LO] : [LO, index]) {
        add(family, TABLES.local, "multicast", `${address}/32`, { index: one, metric: one });
      }
    }
  }
  return [...new Map(routes.map((route) => [routeText(route), route])).values()];
}

/** The wanted rules and routes for the present interfaces and addresses. */
export function wantedWall(
  spec: FirewallSpec,
  { rules: present, links, addresses }: Pick<RoutingState, "rules" | "links" | "addresses">,
  families: readonly Family[] = FAMILIES,
): WantedWall {
  const rules = families.flatMap((family) => [
    ...userRules(spec, family, { addresses, rules: present }),
    ...(family === "ipv4" ? sourceRules(spec, addresses) : []),
    // After all other rules for users, so that none of those is replaced when the proxy's port changes; before those for
    // containers, the first of which lets through all that this node sends.
    ...sendingRules(spec, family),
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
