import type { Endpoint } from "../identity/endpoint.ts";
import type { LimitsSpec } from "./limits/figures.ts";

/** Everything the firewall's rules depend on. Built from the configuration and the node, then pure. */
export interface FirewallSpec {
  /** Where the node's own IMDS answers over IPv4: 169.254.0.2:9081 on SageMaker HyperPod, 169.254.169.254:80 elsewhere. */
  readonly upstream: Endpoint;
  /** Where the proxy listens; the IPv6 listener is on [::1] at the same port when `listen` is an IPv4 loopback address. */
  readonly listen: Endpoint;
  /** Uids that are sent straight to the upstream: root first, then the service's account and the configured users; sorted, distinct. */
  readonly exemptUids: readonly number[];
  /** What becomes of bridged containers, which have no uid. */
  readonly containers: "leave" | "reject" | "proxy";
  /**
   * Ports of an upstream that is an address of this node: closed to users on every local address, since what listens there
   * may listen everywhere. Default none.
   */
  readonly localPorts?: readonly number[];
  /** The share of the kernel's tables that one user may use. Absent in a file that a version before 0.2 wrote: then unchanged. */
  readonly limits?: LimitsSpec;
}

/** A family of addresses, each with its own set of tables. */
export type Family = "ipv4" | "ipv6";
/** The tables that we write to. */
export type TableName = "filter" | "nat";

export const FAMILIES: readonly Family[] = ["ipv4", "ipv6"];

/** A chain of our own, with its rules in order, each as it follows `-A NAME`. */
export interface WantedChain {
  readonly name: string;
  readonly rules: readonly string[];
}

/** A jump from the first position of one of the kernel's chains to one of ours. */
export interface Hook {
  readonly from: "OUTPUT" | "PREROUTING" | "INPUT" | "FORWARD";
  readonly to: string;
}

/** All chains and hooks of ours that one table should have; with none, all of ours are to be removed. */
export interface WantedTable {
  readonly family: Family;
  readonly table: TableName;
  readonly chains: readonly WantedChain[];
  readonly hooks: readonly Hook[];
}

/** One chain as iptables-save shows it. */
export interface ChainState {
  /** The policy of one of the kernel's chains, null for a chain that somebody made. */
  readonly policy: string | null;
  /** Each rule as it follows `-A NAME`. */
  readonly rules: readonly string[];
}

/** One table as iptables-save shows it: its chains by name, in its order. */
export type TableState = ReadonlyMap<string, ChainState>;
/** All tables of a family, by name. A table that nobody has used yet is absent. */
export type RuleSet = ReadonlyMap<string, TableState>;
