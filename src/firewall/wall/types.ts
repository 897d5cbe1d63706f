import type { Family } from "../types.ts";

/** What the wall is made of: routing rules, and routes in tables of our own. */

/** A routing rule (ip-rule(8)) as far as we use them. */
export interface RoutingRule {
  readonly family: Family;
  /** FRA_PRIORITY: the smaller comes first; of equal ones, the one that was added first. */
  readonly preference: number;
  /** FRA_SRC with the whole length of an address; `0.0.0.0` is a look-up without a source yet. Absent: any. */
  readonly from?: string | undefined;
  /** FRA_DST: a whole address, or the prefix of all link-local ones, `fe80::/10`. Absent: any. */
  readonly to?: string | undefined;
  /** FRA_IIFNAME; `lo` is every packet that the node itself sends. Absent: any. */
  readonly iif?: string | undefined;
  /** FRA_OIFNAME: a look-up for a socket that is bound to that interface. Absent: any. */
  readonly oif?: string | undefined;
  /** FRA_IP_PROTO 6 and FRA_DPORT_RANGE, since linux 4.17. Absent: any packet. */
  readonly tcpPort?: number | undefined;
  /** FRA_IP_PROTO 6 without a port. */
  readonly tcp?: boolean | undefined;
  /** FRA_UID_RANGE, both ends included. Absent: anybody, and packets without a user. */
  readonly uids?: readonly [number, number] | undefined;
  readonly action:
    | { readonly kind: "lookup"; readonly table: number }
    | { readonly kind: "goto"; readonly preference: number }
    /** Does nothing, so that a goto can lead there. */
    | { readonly kind: "nop" }
    | { readonly kind: "unreachable" }
    | { readonly kind: "prohibit" };
  /** FRA_PROTOCOL; ours are `kernel` (2). */
  readonly protocol: number;
  /** Something that we do not use, such as a mark: then the rule is none of ours. */
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
  /** The address that a socket gets which has none yet. */
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

/** What the kernel has at one moment. */
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
