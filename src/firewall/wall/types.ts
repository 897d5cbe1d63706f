import type { Family } from "../types.ts";

/** The parts of the wall: routing rules, and routes in tables of our own. */

/** A routing rule (ip-rule(8)), with the attributes that our rules use. */
export interface RoutingRule {
  readonly family: Family;
  /** FRA_PRIORITY: the rule with the smaller number comes first; among equals, the one that was added first. */
  readonly preference: number;
  /** FRA_SRC, a whole address; `0.0.0.0` matches a look-up that has no source address yet. Absent: any. */
  readonly from?: string | undefined;
  /** FRA_DST: a whole address, or `fe80::/10` for all link-local ones. Absent: any. */
  readonly to?: string | undefined;
  /** FRA_IIFNAME; `lo` matches every packet that the node itself sends. Absent: any. */
  readonly iif?: string | undefined;
  /** FRA_OIFNAME: matches look-ups for sockets that are bound to this interface. Absent: any. */
  readonly oif?: string | undefined;
  /** FRA_IP_PROTO 6 and FRA_DPORT_RANGE, since linux 4.17. Absent: any packet. */
  readonly tcpPort?: number | undefined;
  /** FRA_IP_PROTO 6 and FRA_SPORT_RANGE: the port of the sending socket. Absent: any. */
  readonly tcpSourcePort?: number | undefined;
  /** FRA_IP_PROTO 6 without a port. */
  readonly tcp?: boolean | undefined;
  /** FRA_UID_RANGE, both ends included. Absent: every uid, and packets without a uid. */
  readonly uids?: readonly [number, number] | undefined;
  readonly action:
    | { readonly kind: "lookup"; readonly table: number }
    | { readonly kind: "goto"; readonly preference: number }
    /** Does nothing; the target of a goto. */
    | { readonly kind: "nop" }
    | { readonly kind: "unreachable" }
    | { readonly kind: "prohibit" };
  /** FRA_PROTOCOL; ours are `kernel` (2). */
  readonly protocol: number;
  /** Whether the rule has an attribute that our rules never have, such as a mark: then it is not ours. */
  readonly foreign?: boolean | undefined;
}

/** A route of one of our tables (ip-route(8)). */
export interface Route {
  readonly family: Family;
  readonly table: number;
  readonly kind: "unicast" | "local" | "broadcast" | "multicast" | "prohibit";
  /** `default`, or an address with the length of its prefix. */
  readonly to: string;
  /** Index of the interface; 0 for none. */
  readonly interface: number;
  readonly metric: number;
  /** The source address of sockets that have none yet. */
  readonly source?: string | undefined;
}

/** A network interface. */
export interface Link {
  readonly index: number;
  readonly name: string;
}

/** An address of this node. */
export interface LocalAddress {
  readonly family: Family;
  readonly address: string;
  /** Index of its interface. */
  readonly interface: number;
}

/** The kernel's rules, routes, interfaces and addresses at one moment. */
export interface RoutingState {
  /** All rules of both families, in the kernel's order. */
  readonly rules: readonly RoutingRule[];
  /** The routes of our tables. */
  readonly routes: readonly Route[];
  readonly links: readonly Link[];
  readonly addresses: readonly LocalAddress[];
}

/** One request to the kernel. */
export type Change =
  | { readonly kind: "add-route"; readonly route: Route }
  | { readonly kind: "delete-route"; readonly route: Route }
  | { readonly kind: "add-rule"; readonly rule: RoutingRule }
  | { readonly kind: "delete-rule"; readonly rule: RoutingRule };
