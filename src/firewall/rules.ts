import type { Endpoint } from "../identity/endpoint.ts";
import { endpointText } from "../identity/endpoint.ts";
import {
  familyOf,
  HYPERPOD_AGENT,
  hostMask,
  listensEverywhere,
  METADATA,
  redirectTarget,
  sameEndpoint,
} from "./addresses.ts";
import type { Family, FirewallSpec, Hook, TableName, WantedChain, WantedTable } from "./types.ts";

/**
 * Every rule of ours, built once and used by apply, status and remove. Pure.
 *
 * Facts about the kernel that the rules rest on:
 * - net/netfilter/xt_owner.c: the uid is the one that made the socket (f_cred->fsuid), in the initial user namespace, so a
 *   "root" of a user namespace is the user who made it. A packet without a socket, or whose socket has no file, has none.
 * - net/netfilter/xt_conntrack.c: a packet that conntrack calls INVALID or does not track at all is not DNAT.
 * - The nat table is asked only about the first packet of a connection, and after it the filter table sees the new
 *   destination. So the redirect can be absent or pre-empted, and the filter must hold alone.
 */

/** Our chains, by table; in each, the first is entered from OUTPUT and the others stand for containers. */
export const OWN_CHAINS: Record<TableName, readonly string[]> = {
  filter: ["IMDSPROXY", "IMDSPROXY-FORWARD", "IMDSPROXY-INPUT"],
  nat: ["IMDSPROXY", "IMDSPROXY-PREROUTING"],
};

/** All uids that a file can have: 4294967295 is (uid_t)-1, which is none. */
const ANY_UID = "0-4294967294";
const RESET = "-j REJECT --reject-with tcp-reset";

const to = (endpoint: Endpoint): string => `-d ${hostMask(endpoint)} -p tcp -m tcp --dport ${endpoint.port}`;

/**
 * No packet of a socket leaves from a port, unless a rule before this one lets its sender pass. So whoever else listens there
 * answers nobody: the SYN-ACK is the listener's own packet, and xt_owner sees the listener's socket in it (skb_to_full_sk,
 * net/sock.h). All flags and not SYN-ACK alone: a connection can also be opened from both ends at once, with a SYN of the
 * impostor's. Dropped, not reset: a reset would go to the impostor, and nothing reaches the client.
 *
 * Packets without a socket pass: under a flood of SYNs, or with net.ipv4.tcp_syncookies=2, that is how the SYN-ACK of the
 * rightful listener is sent (TCP_SYNACK_COOKIE in tcp_make_synack, net/ipv4/tcp_output.c), and a user can cause the flood.
 * An impostor who does the same gets a client's connection and its request, and can still answer nothing.
 *
 * @param port the TCP port that is not everybody's.
 * @param impostors whose packets are dropped: a range of uids such as `1000-4294967294`; null for all who come this far,
 *   sockets that the kernel opened included.
 * @param from the local address; null for every one.
 */
export function silence(
  port: number,
  { impostors = null, from = null }: { impostors?: string | null; from?: Endpoint | null } = {},
): string {
  const owner = impostors === null ? "--socket-exists" : `--uid-owner ${impostors}`;
  const source = from === null ? "" : `-s ${hostMask(from)} `;
  return `${source}-p tcp -m owner ${owner} -m tcp --sport ${port} -j DROP`;
}

/** Whom nobody takes for the agent: people's uids begin here (UID_MIN, login.defs(5)). */
const PEOPLE = "1000-4294967294";

/** Where the instance role can be had over a family: nobody but the exempt may get a packet there. */
export function guardedEndpoints(spec: FirewallSpec, family: Family): Endpoint[] {
  const guarded: Endpoint[] = [];
  const candidates = [
    spec.upstream,
    // Always, whatever the upstream: the redirect may be flushed, come before the agent's, or not apply (untracked packets).
    METADATA[family],
    // Always, for the agent may start after the rules came: at boot nothing shows yet that the node is one of HyperPod's.
    HYPERPOD_AGENT,
  ];
  for (const candidate of candidates) {
    if (familyOf(candidate) !== family) continue;
    if (!guarded.some((known) => sameEndpoint(known, candidate))) guarded.push(candidate);
  }
  return guarded;
}

/** An upstream on this node may listen on every address: its port at any of them, of either family; never at another host's. */
const toAnyLocal = ({ localPorts = [] }: FirewallSpec): string[] =>
  localPorts.map((port) => `-p tcp -m addrtype --dst-type LOCAL -m tcp --dport ${port}`);

/** The redirect. */
function natOutput(spec: FirewallSpec, family: Family): WantedChain {
  const metadata = METADATA[family];
  const own = familyOf(spec.upstream) === family ? spec.upstream : metadata;
  const target = redirectTarget(spec.listen, family);
  const exempt = (uid: number): string => {
    const who = `-d ${hostMask(metadata)} -p tcp -m owner --uid-owner ${uid} -m tcp --dport ${metadata.port}`;
    // RETURN and not ACCEPT: where the upstream is the metadata address itself, the exempt find the node as it would be
    // without us, an entry of the HyperPod agent that comes after us included.
    return sameEndpoint(own, metadata)
      ? `${who} -j RETURN`
      : `${who} -j DNAT --to-destination ${endpointText(own)}`;
  };
  return {
    name: "IMDSPROXY",
    rules: [
      ...spec.exemptUids.map(exempt),
      // Everyone else, sockets that the kernel opens on somebody's behalf (SMC, MPTCP subflows) included: no condition on uid.
      `${to(metadata)} -j DNAT --to-destination ${endpointText(target)}`,
    ],
  };
}

/** The block. */
function filterOutput(spec: FirewallSpec, family: Family): WantedChain {
  const target = redirectTarget(spec.listen, family);
  const listener = listensEverywhere(spec.listen, spec.containers)
    ? `-p tcp -m addrtype --dst-type LOCAL -m tcp --dport ${target.port}`
    : to(target);
  return {
    name: "IMDSPROXY",
    rules: [
      ...spec.exemptUids.map((uid) => `-m owner --uid-owner ${uid} -j RETURN`),
      // The last packets of the exempt's connections belong to nobody any more: a closed socket's retransmissions have no
      // socket, and the kernel's own RST and TIME_WAIT answers leave through a control socket without a file (tcp_ipv4.c,
      // tcp_v4_send_reset and tcp_v4_send_ack; so --socket-exists would still hit them). Nobody can read an answer to such a
      // packet. Never a SYN: sockets that the kernel opens (SMC, MPTCP subflows) have no file either, and must not connect.
      `-p tcp -m owner ! --uid-owner ${ANY_UID} -m tcp --tcp-flags SYN NONE -j RETURN`,
      // Whatever conntrack thinks of the packet: this also ends the connections that were open before the rules came, and
      // takes packets that are INVALID or untracked, which the redirect never sees. A reset, so that clients fail at once.
      ...guardedEndpoints(spec, family).map((endpoint) => `${to(endpoint)} ${RESET}`),
      ...toAnyLocal(spec).map((port) => `${port} ${RESET}`),
      // Only the service and root, who have returned above, answer at the proxy's port. It is under 1024, but
      // net.ipv4.ip_unprivileged_port_start may give it to everybody, and while the proxy is away a user could have it. The
      // packets of a socket that is gone (RST, TIME_WAIT) have returned too.
      silence(target.port),
      // Nor do people answer in the agent's place, whose port is anybody's while the agent is away: root's own requests would
      // reach them. System accounts may be the agent's.
      ...guardedEndpoints(spec, family)
        .filter((endpoint) => !sameEndpoint(endpoint, METADATA[family]))
        .map((endpoint) => silence(endpoint.port, { impostors: PEOPLE, from: endpoint })),
      // Straight to the proxy, by whichever local address reaches its listener: such connections occupy the ports that a
      // victim's redirected connection would have, and nobody needs them.
      `${listener} -m conntrack ! --ctstate DNAT ${RESET}`,
    ],
  };
}

/**
 * The upstream (the HyperPod agent) may live in a network namespace of its own, whose packets are forwarded like a
 * container's. Whoever forges this source gets no answer: it goes to the real owner of the address.
 */
function fromUpstream({ upstream }: FirewallSpec, family: Family): string[] {
  const isSomebodyElse = familyOf(upstream) === family && !sameEndpoint(upstream, METADATA[family]);
  return isSomebodyElse ? [`-s ${hostMask(upstream)} -j RETURN`] : [];
}

/** Bridged containers on their way to somewhere else: the metadata service, or an upstream outside of the node's own addresses. */
function filterForward(spec: FirewallSpec, family: Family): WantedChain {
  return {
    name: "IMDSPROXY-FORWARD",
    rules: [
      ...fromUpstream(spec, family),
      // Forwarded packets have no socket, so no uid exempts any of them. An entry of somebody else in nat PREROUTING that
      // sends them to the upstream ends here too: FORWARD sees the destination after it.
      ...guardedEndpoints(spec, family).map((endpoint) => `${to(endpoint)} ${RESET}`),
      // With the second wall, packets to the node's own addresses come by here.
      ...toAnyLocal(spec).map((port) => `${port} ${RESET}`),
    ],
  };
}

/** Packets from outside, bridges included, to addresses of the node itself. */
function filterInput(spec: FirewallSpec, family: Family): WantedChain {
  const target = redirectTarget(spec.listen, family);
  const address = listensEverywhere(spec.listen, spec.containers) ? "" : `-d ${hostMask(target)} `;
  const redirected = spec.containers === "proxy" ? " -m conntrack ! --ctstate DNAT" : "";
  return {
    name: "IMDSPROXY-INPUT",
    rules: [
      // The upstream may be an address of the node, which forwarding never shows. What comes over lo passed OUTPUT already.
      ...guardedEndpoints(spec, family).map((endpoint) => `! -i lo ${to(endpoint)} ${RESET}`),
      ...toAnyLocal(spec).map((port) => `! -i lo ${port} ${RESET}`),
      // The listener, on every address when containers are served: only what our own redirect brought may come in.
      `${address}! -i lo -p tcp -m tcp --dport ${target.port}${redirected} ${RESET}`,
    ],
  };
}

/** Containers' requests to the metadata service end at the proxy's port on the bridge's own address. */
function natPrerouting(spec: FirewallSpec, family: Family): WantedChain {
  return {
    name: "IMDSPROXY-PREROUTING",
    rules: [
      ...fromUpstream(spec, family),
      `${to(METADATA[family])} -j REDIRECT --to-ports ${spec.listen.port}`,
    ],
  };
}

/** What the table of a family is to hold of ours. */
export function wantedTable(spec: FirewallSpec, family: Family, table: TableName): WantedTable {
  const chains: WantedChain[] = [];
  const hooks: Hook[] = [];
  const add = (from: Hook["from"], chain: WantedChain) => {
    chains.push(chain);
    hooks.push({ from, to: chain.name });
  };
  const guardContainers = spec.containers !== "leave";
  if (table === "filter") {
    add("OUTPUT", filterOutput(spec, family));
    if (guardContainers) {
      add("FORWARD", filterForward(spec, family));
      add("INPUT", filterInput(spec, family));
    }
  } else {
    add("OUTPUT", natOutput(spec, family));
    if (spec.containers === "proxy") add("PREROUTING", natPrerouting(spec, family));
  }
  return { family, table, chains, hooks };
}

/** The table without anything of ours. */
export const emptyTable = (family: Family, table: TableName): WantedTable => ({
  family,
  table,
  chains: [],
  hooks: [],
});
