import { isIP } from "node:net";
import type { Endpoint } from "../identity/endpoint.ts";
import type { Family } from "./types.ts";

/** The metadata service, by family: "Use the Instance Metadata Service", Amazon EC2 User Guide. */
export const METADATA: Record<Family, Endpoint> = {
  ipv4: { address: "169.254.169.254", port: 80 },
  ipv6: { address: "fd00:ec2::254", port: 80 },
};

/** The agent of SageMaker HyperPod, which answers as the metadata service for the node's instance role. */
export const HYPERPOD_AGENT: Endpoint = { address: "169.254.0.2", port: 9081 };

/** The entry of the HyperPod agent in nat OUTPUT, as iptables-save spells it after `-A OUTPUT`. */
export const ORIGINAL_ENTRY =
  "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081";

export const familyOf = (endpoint: Endpoint): Family => (isIP(endpoint.address) === 6 ? "ipv6" : "ipv4");

export const sameEndpoint = (a: Endpoint, b: Endpoint): boolean =>
  a.address === b.address && a.port === b.port;

/** The address as iptables-save has it after -d: with the length of its prefix. */
export const hostMask = (endpoint: Endpoint): string =>
  `${endpoint.address}/${familyOf(endpoint) === "ipv6" ? 128 : 32}`;

const UNSPECIFIED = new Set(["0.0.0.0", "::"]);
const LOOPBACK: Record<Family, string> = { ipv4: "127.0.0.1", ipv6: "::1" };

/** Whether the proxy listens on every local address of the family. */
export const listensEverywhere = (listen: Endpoint, containers: string): boolean =>
  containers === "proxy" || UNSPECIFIED.has(listen.address);

/**
 * Where the redirect of a family leads: `listen` where it is an address of that family, else the family's loopback
 * address at the same port.
 */
export function redirectTarget(listen: Endpoint, family: Family): Endpoint {
  if (familyOf(listen) === family && !UNSPECIFIED.has(listen.address)) return listen;
  return { address: LOOPBACK[family], port: listen.port };
}
