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
 * Builds all our iptables rules, for apply, status and remove. Pure.
 *
 * The rules depend on these facts about the kernel:
 * - net/netfilter/xt_owner.c: the uid is that of the process that made the socket (f_cred->fsuid), in the initial user
 *   namespace, so that "root" of a user namespace counts as the user who made it. A packet without a socket, or whose socket
 *   has no file, has no uid.
 * - net/netfilter/xt_conntrack.c: a packet that conntrack calls INVALID or does not track is not matched as DNAT.
 * - Only the first packet of a connection passes the nat table. The filter table comes after it and sees the new destination.
 *   So the redirect may be missing, or another program's rule may come before it, and the filter rules must suffice alone.
 */

/** Our chains, by table. OUTPUT jumps to the first of each; the others are for containers. */
export const OWN_CHAINS: Record<TableName, readonly string[]> = {
  filter: ["IMDSPROXY", "IMDSPROXY-FORWARD", "IMDSPROXY-INPUT"],
  nat: ["IMDSPROXY", "IMDSPROXY-PREROUTING"],
};

/** All uids that a file can have. 4294967295 is (uid_t)-1, which is no uid. */
const ANY_UID = "0-4294967294";
const RESET = "-j REJECT --reject-with tcp-reset";

const to = (endpoint: Endpoint): string => `-d ${hostMask(endpoint)} -p tcp -m tcp --dport ${endpoint.port}`;

/**
 * Drops packets that sockets send from a port, unless a rule before this one accepts their sender. So an impostor who listens
 * there cannot answer: the SYN-ACK is the listener's packet, and xt_owner sees the listener's socket in it (skb_to_full_sk,
 * net/sock.h). The rule matches all flags and not only SYN-ACK, because a connection can also be opened from both ends at
 * once, with a SYN of the impostor's. It drops and does not reject, because a reset would go to the impostor and not to the
 * client.
 *
 * Packets without a socket pass: during a flood of SYNs, or with net.ipv4.tcp_syncookies=2, the kernel sends the SYN-ACK of
 * the real listener without a socket (TCP_SYNACK_COOKIE in tcp_make_synack, net/ipv4/tcp_output.c), and a user can cause such
 * a flood. An impostor who causes one gets a client's connection and its request, but still cannot answer.
 *
 * @param port the TCP port to protect.
 * @param impostors the uids whose packets are dropped, as a range such as `1000-4294967294`; null for all senders that no
 *   earlier rule accepts, including sockets that the kernel opened.
 * @param from the local address; null for every address.
 */
export function silence(
  port: number,
  { impostors = null, from = null }: { impostors?: string | null; from?: Endpoint | null } = {},
): string {
  const owner = impostors === null ? "--socket-exists" : `--uid-owner ${impostors}`;
  const source = from === null ? "" : `-s ${hostMask(from)} `;
  return `${source}-p tcp -m owner ${owner} -m tcp --sport ${port} -j DROP`;
}

/** The uids that cannot be the agent's begin here: people's (UID_MIN, login.defs(5)). */
export const FIRST_PERSON = 1000;
const PEOPLE = `${FIRST_PERSON}-4294967294`;

/** The endpoints of a family that give out the instance role. Only exempt users may send packets there. */
export function guardedEndpoints(spec: Pick<FirewallSpec, "upstream">, family: Family): Endpoint[] {
  const guarded: Endpoint[] = [];
  const candidates = [
    spec.upstream,
    // Whatever the upstream is: the redirect may be flushed, come after another one, or not apply (untracked packets).
    METADATA[family],
    // Always: the agent may start after the rules are applied, and at boot nothing shows yet that this is a HyperPod node.
    HYPERPOD_AGENT,
  ];
  for (const candidate of candidates) {
    if (familyOf(candidate) !== family) continue;
    if (!guarded.some((known) => sameEndpoint(known, candidate))) guarded.push(candidate);
  }
  return guarded;
}

/** The guarded endpoints that may be an agent's on this node. Users can bind these while the agent does not run. */
export const agentEndpoints = (spec: Pick<FirewallSpec, "upstream">, family: Family): Endpoint[] =>
  guardedEndpoints(spec, family).filter((endpoint) => !sameEndpoint(endpoint, METADATA[family]));

/** The ports of an upstream on this node that may listen on every address: closed at all addresses of the node, of either family. */
const toAnyLocal = ({ localPorts = [] }: FirewallSpec): string[] =>
  localPorts.map((port) => `-p tcp -m addrtype --dst-type LOCAL -m tcp --dport ${port}`);

/** The chain of the redirect (nat). */
function natOutput(spec: FirewallSpec, family: Family): WantedChain {
  const metadata = METADATA[family];
  const own = familyOf(spec.upstream) === family ? spec.upstream : metadata;
  const target = redirectTarget(spec.listen, family);
  const exempt = (uid: number): string => {
    const who = `-d ${hostMask(metadata)} -p tcp -m owner --uid-owner ${uid} -m tcp --dport ${metadata.port}`;
    // RETURN and not ACCEPT: where the upstream is the metadata address itself, later rules apply to exempt users as they would
    // without us, for instance the HyperPod agent's entry.
    return sameEndpoint(own, metadata)
      ? `${who} -j RETURN`
      : `${who} -j DNAT --to-destination ${endpointText(own)}`;
  };
  return {
    name: "IMDSPROXY",
    rules: [
      ...spec.exemptUids.map(exempt),
      // All others, without a condition on the uid, so that it includes sockets that the kernel opens (SMC, MPTCP subflows).
      `${to(metadata)} -j DNAT --to-destination ${endpointText(target)}`,
    ],
  };
}

/** The chain of the block (filter). */
function filterOutput(spec: FirewallSpec, family: Family): WantedChain {
  const target = redirectTarget(spec.listen, family);
  const listener = listensEverywhere(spec.listen, spec.containers)
    ? `-p tcp -m addrtype --dst-type LOCAL -m tcp --dport ${target.port}`
    : to(target);
  return {
    name: "IMDSPROXY",
    rules: [
      ...spec.exemptUids.map((uid) => `-m owner --uid-owner ${uid} -j RETURN`),
      // The last packets of exempt users' connections have no uid. A closed socket's retransmissions have no socket. The kernel
      // sends RST and TIME_WAIT answers through a control socket without a file (tcp_v4_send_reset and tcp_v4_send_ack in
      // tcp_ipv4.c), so --socket-exists would match them. These packets may pass, because nobody can read an answer to them. A
      // SYN may not: sockets that the kernel opens (SMC, MPTCP subflows) also have no file, and must not connect.
      `-p tcp -m owner ! --uid-owner ${ANY_UID} -m tcp --tcp-flags SYN NONE -j RETURN`,
      // Whatever conntrack's state of the packet: this also ends connections that were open before the rules were applied, and
      // matches INVALID and untracked packets, which the redirect never sees. With a reset, so that clients fail at once.
      ...guardedEndpoints(spec, family).map((endpoint) => `${to(endpoint)} ${RESET}`),
      ...toAnyLocal(spec).map((port) => `${port} ${RESET}`),
      // Only the service and root, whose packets returned above, may answer from the proxy's port. The port is below 1024, but
      // net.ipv4.ip_unprivileged_port_start may allow every user to bind it while the proxy does not run. Packets of closed
      // sockets (RST, TIME_WAIT) returned above too.
      silence(target.port),
      // Nor may people answer from the agent's port, which any user can bind while the agent does not run: root's own requests
      // would reach them. System accounts may, because one of them may be the agent's.
      ...agentEndpoints(spec, family).map((endpoint) =>
        silence(endpoint.port, { impostors: PEOPLE, from: endpoint }),
      ),
      // Connections to the proxy's own port, at every local address of its listener. Nobody needs them, and they could occupy
      // the source ports of other users' redirected connections.
      `${listener} -m conntrack ! --ctstate DNAT ${RESET}`,
    ],
  };
}

/**
 * The upstream (the HyperPod agent) may run in a network namespace of its own, whose packets are forwarded like a container's.
 * A sender who forges this source address gets no answer, because it goes to the owner of the address.
 */
function fromUpstream({ upstream }: FirewallSpec, family: Family): string[] {
  const isSomebodyElse = familyOf(upstream) === family && !sameEndpoint(upstream, METADATA[family]);
  return isSomebodyElse ? [`-s ${hostMask(upstream)} -j RETURN`] : [];
}

/** The chain for forwarded packets: bridged containers' to the metadata service, or to an upstream that is not on this node. */
function filterForward(spec: FirewallSpec, family: Family): WantedChain {
  return {
    name: "IMDSPROXY-FORWARD",
    rules: [
      ...fromUpstream(spec, family),
      // Forwarded packets have no socket and hence no uid, so none is exempt. Where another program's rule in nat PREROUTING
      // sends them to the upstream, this rule applies too, because FORWARD sees the new destination.
      ...guardedEndpoints(spec, family).map((endpoint) => `${to(endpoint)} ${RESET}`),
      // The second wall routes packets to the node's own addresses through this chain.
      ...toAnyLocal(spec).map((port) => `${port} ${RESET}`),
    ],
  };
}

/** The chain for packets to addresses of this node from elsewhere, bridges included. */
function filterInput(spec: FirewallSpec, family: Family): WantedChain {
  const target = redirectTarget(spec.listen, family);
  const address = listensEverywhere(spec.listen, spec.containers) ? "" : `-d ${hostMask(target)} `;
  const redirected = spec.containers === "proxy" ? " -m conntrack ! --ctstate DNAT" : "";
  return {
    name: "IMDSPROXY-INPUT",
    rules: [
      // The upstream may be an address of the node, and then these packets are not forwarded. Those over lo have passed OUTPUT.
      ...guardedEndpoints(spec, family).map((endpoint) => `! -i lo ${to(endpoint)} ${RESET}`),
      ...toAnyLocal(spec).map((port) => `! -i lo ${port} ${RESET}`),
      // Where containers are served, the proxy listens on every address. Only connections that our own rule redirected may enter.
      `${address}! -i lo -p tcp -m tcp --dport ${target.port}${redirected} ${RESET}`,
    ],
  };
}

/** The chain that redirects containers' requests for the metadata service to the proxy's port on the bridge's address. */
function natPrerouting(spec: FirewallSpec, family: Family): WantedChain {
  return {
    name: "IMDSPROXY-PREROUTING",
    rules: [
      ...fromUpstream(spec, family),
      `${to(METADATA[family])} -j REDIRECT --to-ports ${spec.listen.port}`,
    ],
  };
}

/** The chains and rules that we want in a table of a family. */
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

/** The same table without any rule of ours, for removing them. */
export const emptyTable = (family: Family, table: TableName): WantedTable => ({
  family,
  table,
  chains: [],
  hooks: [],
});
