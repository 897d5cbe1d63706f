import { networkInterfaces } from "node:os";
import type { Config } from "../config/schema.ts";
import { type BridgeAddress, bridgesOfNode, isBehindBridge } from "../identity/bridges.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import { monotonicMs } from "../platform/clock.ts";

/** Milliseconds for which the list of bridges is kept: bridges come and go with containers. */
const BRIDGES_MS = 2_000;

/** Which addresses are served as containers: none, unless the configuration says `containers: proxy`. */
export function containerTest(config: Config): (address: Uint8Array) => boolean {
  if (config.containers !== "proxy") return () => false;
  let bridges: BridgeAddress[] = [];
  let seenMs = Number.NEGATIVE_INFINITY;
  return (address) => {
    const now = monotonicMs();
    if (now - seenMs > BRIDGES_MS) {
      bridges = bridgesOfNode();
      seenMs = now;
    }
    return isBehindBridge(address, bridges);
  };
}

/**
 * Where the proxy listens; without the first it does not start, the others are optional. The configured endpoint, and the IPv6
 * loopback beside an IPv4 one: there the IPv6 metadata address is redirected to. Where containers are served, the port on every
 * address, for theirs end at the address of their bridge; the firewall lets in there only what it redirected.
 *
 * @param ipv6 whether the node has IPv6; default: as it is now.
 */
export function endpoints(
  config: Pick<Config, "listen" | "containers">,
  ipv6: boolean = hasIPv6(),
): [first: Endpoint, ...further: Endpoint[]] {
  const { port } = config.listen;
  if (config.containers === "proxy") {
    return [{ address: "0.0.0.0", port }, ...(ipv6 ? [{ address: "::", port }] : [])];
  }
  const second =
    config.listen.address.startsWith("127.") && ipv6 ? [{ address: "::1", port: config.listen.port }] : [];
  return [config.listen, ...second];
}

const hasIPv6 = (): boolean =>
  Object.values(networkInterfaces()).some((addresses) => addresses?.some(({ address }) => address === "::1"));
