import { readFileSync } from "node:fs";
import { beginningOfFile } from "../bounded-read.ts";
import { addressText, parseAddress } from "../identity/address.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import { HYPERPOD_AGENT, sameEndpoint } from "./addresses.ts";
import { localAddresses } from "./spec.ts";
import type { FirewallSpec } from "./types.ts";

/** Finds what listens at the upstream's port on this node: an agent may listen on every address. */

/** A listening TCP socket. */
export interface Listener {
  /** `0.0.0.0` and `::` stand for every address. */
  readonly address: string;
  readonly port: number;
  readonly uid: number;
}

/** TCP_LISTEN (net/tcp_states.h) */
const LISTEN = "0A";

/** Reads the text of /proc/net/tcp or tcp6 (proc(5)): addresses are words of 32 bits in the machine's byte order. Pure. */
export function parseListeners(text: string): Listener[] {
  return text
    .split("\n")
    .slice(1)
    .flatMap((line) => {
      const [, local = "", , state, , , , uid] = line.trim().split(/\s+/);
      const [address = "", port = ""] = local.split(":");
      if (state !== LISTEN || ![8, 32].includes(address.length)) return [];
      const bytes = Buffer.from(address, "hex");
      bytes.swap32();
      return [{ address: shown(bytes), port: Number.parseInt(port, 16), uid: Number(uid) }];
    });
}

function shown(bytes: Uint8Array): string {
  const text = addressText(bytes);
  return bytes.length === 4 ? text : new URL(`http://[${text}]`).hostname.slice(1, -1);
}

/** Listeners at the upstream's port; none where the upstream is on another host. */
export function upstreamListeners({ upstream, localPorts = [] }: FirewallSpec): readonly Listener[] {
  const ports = new Set([...localPorts, HYPERPOD_AGENT.port]);
  if (parseAddress(upstream.address) !== null && localAddresses().includes(upstream.address))
    ports.add(upstream.port);
  return ["/proc/net/tcp", "/proc/net/tcp6"].flatMap((path) => {
    try {
      return parseListeners(readFileSync(path, "utf8")).filter(({ port }) => ports.has(port));
    } catch {
      return [];
    }
  });
}

/** Bytes of /proc/net/tcp that are read for listeners: the kernel lists them before all connections (tcp_get_idx in net/ipv4/tcp_ipv4.c). */
const MOST_BYTES = 1 << 20;

/**
 * Whether the proxy listens at `endpoint`, so that users may be led there in place of `before`. True as well where it listens at neither:
 * then nothing is lost. The proxy is whoever has the uid of the listener of before.
 */
export function isServedInPlaceOf(endpoint: Endpoint, before: Endpoint): boolean {
  if (sameEndpoint(endpoint, before)) return true;
  const listeners = ["/proc/net/tcp", "/proc/net/tcp6"].flatMap((path) => {
    try {
      return parseListeners(beginningOfFile(path, MOST_BYTES).toString("latin1"));
    } catch {
      return [];
    }
  });
  const uidsAt = ({ address, port }: Endpoint) =>
    listeners
      .filter((one) => one.port === port && [address, "0.0.0.0", "::"].includes(one.address))
      .map(({ uid }) => uid);
  const proxies = uidsAt(before);
  return proxies.length === 0 || uidsAt(endpoint).some((uid) => proxies.includes(uid));
}

/** The listeners as text. */
export function listenerLines(listeners: readonly Listener[]): string[] {
  return listeners.map(({ address, port, uid }) => {
    const everywhere = address === "0.0.0.0" || address === "::";
    const where = address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
    return everywhere
      ? `uid ${uid} listens at ${where}, which is every address of this node: closed to users on each of them`
      : `uid ${uid} listens at ${where}`;
  });
}
