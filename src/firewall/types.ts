import type { Endpoint } from "../identity/types.ts";

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
}
