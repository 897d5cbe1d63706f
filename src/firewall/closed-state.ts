import type { Endpoint } from "../identity/endpoint.ts";
import { familyOf, HYPERPOD_AGENT, METADATA, sameEndpoint } from "./addresses.ts";
import { FAMILIES, type Family } from "./types.ts";

/**
 * The closed state: routing rules that let uid 0 alone reach the metadata service and its stand-ins. A unit puts it in
 * place at the start of the boot with ip(8), before anything of ours is read; the full rules take it away as their last
 * step. Pure: the text of the rules, and which of the rules that are there are of the closed state.
 *
 * All stand at preference 0, before the table `local`, since the upstream may be an address of this node. `protocol
 * kernel`, because systemd-networkd deletes the rules of every other protocol as it starts (networkd.conf(5),
 * ManageForeignRoutingPolicyRules=). Each selector has two rules:
 *
 *   lookup 169254   A table of our own with `broadcast default dev X scope host` for each interface X: connect(2) to an
 *                   address that is routed as broadcast ends with ENETUNREACH (tcp_v4_connect() in net/ipv4/tcp_ipv4.c).
 *                   Sockets that are bound to an interface need it (SO_BINDTODEVICE, for every user since linux
 *                   5.7): where their look-up fails, the kernel ignores that and takes the address as on the link
 *                   (ip_route_output_key_hash_rcu() in net/ipv4/route.c), so that `prohibit` alone would not hold them.
 *   prohibit        What holds where the table has no route for the interface: EACCES. IPv6 has no such exception.
 */

/** The table of the closed state; no other program is known to use the number. */
export const CLOSED_TABLE = 169254;

/** Everybody but root. 4294967295 is no uid (uid_valid() in linux/uidgid.h). */
const USERS = ["uidrange", "1-4294967294"];

/** What follows `ip rule add pref 0` in one rule of the closed state. */
export interface ClosedRule {
  readonly family: Family;
  readonly words: readonly string[];
}

/**
 * What users may not reach: the metadata addresses; the agent's address; its port at any address, since the agent may
 * listen on all of this node's; and the upstream of the configuration where that is another.
 */
function selectors(family: Family, upstream: Endpoint | null): readonly (readonly string[])[] {
  const known = [METADATA.ipv4, METADATA.ipv6, HYPERPOD_AGENT];
  const other =
    upstream !== null && familyOf(upstream) === family && !known.some((one) => sameEndpoint(one, upstream));
  // TCP by its number: its name would be looked up by NSS.
  const port = ({ port }: Endpoint) => ["ipproto", "6", "dport", String(port)];
  return [
    ["to", METADATA[family].address],
    ...(family === "ipv4" ? [["to", HYPERPOD_AGENT.address]] : []),
    port(HYPERPOD_AGENT),
    ...(other ? [["to", upstream.address, ...port(upstream)]] : []),
  ];
}

/**
 * The rules in the order in which they have to be added.
 *
 * @param upstream the configuration's, null for `auto`.
 */
export function closedRules(upstream: Endpoint | null): readonly ClosedRule[] {
  return FAMILIES.flatMap((family) =>
    selectors(family, upstream).flatMap((selector) =>
      [["lookup", String(CLOSED_TABLE)], ["prohibit"]].map((action) => ({
        family,
        words: [...selector, ...USERS, ...action, "protocol", "kernel"],
      })),
    ),
  );
}
