import { existsSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { parseAddress, sameAddress } from "./address.ts";

/** One address of a bridge of this node, as `ip address` shows it: `172.17.0.1/16`. */
export interface BridgeAddress {
  readonly address: Uint8Array;
  /** Length of the network's prefix in bits. */
  readonly prefix: number;
}

/**
 * Whether an address is a container's: in the network of a bridge, and not an address of the node.
 *
 * A local process cannot have such a source: connecting from an address that is not the node's needs CAP_NET_ADMIN or CAP_NET_RAW
 * (IP_TRANSPARENT; inet_sk_flowi_flags in net/ipv4). A host outside that forges one gets no answer, because the answer goes to
 * the bridge.
 */
export function isBehindBridge(address: Uint8Array, bridges: readonly BridgeAddress[]): boolean {
  if (bridges.some((bridge) => sameAddress(bridge.address, address))) return false;
  return bridges.some((bridge) => inNetwork(address, bridge));
}

function inNetwork(address: Uint8Array, { address: network, prefix }: BridgeAddress): boolean {
  if (address.length !== network.length) return false;
  for (let bit = 0; bit < prefix; bit++) {
    const mask = 0x80 >> (bit & 7);
    if (((address[bit >> 3] ?? 0) & mask) !== ((network[bit >> 3] ?? 0) & mask)) return false;
  }
  return true;
}

/** The bridges of this node: interfaces that the kernel shows a `bridge` directory for (Documentation/ABI, sysfs-class-net). */
export function bridgesOfNode(): BridgeAddress[] {
  const found: BridgeAddress[] = [];
  for (const [name, addresses] of Object.entries(networkInterfaces())) {
    if (!existsSync(`/sys/class/net/${name}/bridge`)) continue;
    for (const { cidr } of addresses ?? []) {
      const [text = "", prefix = ""] = cidr?.split("/") ?? [];
      const address = parseAddress(text);
      // A prefix of length 0 would match every address.
      if (address !== null && Number(prefix) >= 8) found.push({ address, prefix: Number(prefix) });
    }
  }
  return found;
}
