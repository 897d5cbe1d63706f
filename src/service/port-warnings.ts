import { type Endpoint, endpointText } from "../identity/endpoint.ts";

/** Warnings about the port that the proxy listens on. Pure: facts.ts gathers the facts. */

/** What was found on the node. */
export interface PortFacts {
  /** The evidence that the node uses Lustre's network; null where there is none. */
  readonly lustre: string | null;
  /**
   * net.ipv4.ip_unprivileged_port_start of this network namespace, which counts for IPv6 as well: the first port that every
   * user may bind. 1024 unless somebody changed it.
   */
  readonly unprivilegedFrom: number;
}

/** LNet's acceptor (Lustre Operations Manual, "accept_port"). */
const LUSTRE_PORT = 988;
/** rresvport(3) takes one of 512 to 1023 at random, bindresvport(3) of 600 to 1023, the kernel's sunrpc of 665 to 1023. */
const RESERVED_FROM = 512;
const RESERVED_TO = 1023;

/** One line for each problem with the port that an operator should solve, with the right value. */
export function portWarnings(listen: Endpoint, { lustre, unprivilegedFrom }: PortFacts): readonly string[] {
  const warnings: string[] = [];
  const where = endpointText(listen);
  const { port } = listen;
  if (port === LUSTRE_PORT && lustre !== null) {
    warnings.push(
      `listen is ${where}, and Lustre's network listens on port ${LUSTRE_PORT} (${lustre}): whichever of the two starts later fails; set listen: 127.0.0.1:254`,
    );
  } else if (port >= RESERVED_FROM && port <= RESERVED_TO) {
    warnings.push(
      `listen is ${where}: NFS and others take ports from ${RESERVED_FROM} to ${RESERVED_TO} at random, and the proxy cannot start while one of them has it; set listen: 127.0.0.1:254`,
    );
  }
  if (port >= unprivilegedFrom) {
    warnings.push(
      `every user of this node may bind port ${port} of ${where}, since net.ipv4.ip_unprivileged_port_start is ${unprivilegedFrom}: ` +
        "whoever does keeps the proxy from starting; set it to 1024, the kernel's default, with sysctl -w and in /etc/sysctl.d",
    );
  }
  return warnings;
}
