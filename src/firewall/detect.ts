import { connect } from "node:net";
import { networkInterfaces } from "node:os";
import { parseEndpoint } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import { endpointText } from "../identity/endpoint.ts";
import { after } from "../platform/clock.ts";
import { HYPERPOD_AGENT, METADATA } from "./addresses.ts";
import { systemIptables } from "./iptables.ts";
import type { Iptables } from "./operations.ts";
import { redirectOfEveryone, redirectOfExempt } from "./original.ts";
import type { RuleSet } from "./types.ts";

/** Which upstream `upstream: auto` means on this node, and why. */
export interface DetectedUpstream {
  readonly upstream: Endpoint;
  /** In words, for logs and people: what showed it, and what could not be looked at. */
  readonly reason: string;
  /** False where this process could not look at everything, so that root might find another. */
  readonly certain: boolean;
}

/** How a connection attempt ended. `refused` is no sign of a host: Bun 1.4 says so of an unreachable network too. */
export type Reached = "open" | "refused" | "silent";

/** Where detection looks; the defaults are this machine's. */
export interface DetectionSources {
  readonly iptables: Pick<Iptables, "read" | "readOtherBackend">;
  /** Local addresses of the node. */
  addresses(): readonly string[];
  reach(endpoint: Endpoint, timeoutMs: number): Promise<Reached>;
  /** Whether this process is exempt from our own rules; else a refusal may be our own block. */
  readonly isRoot: boolean;
}

/** How long to wait for the agent; it is on this node. */
const REACH_TIMEOUT_MS = 300;

/** Loopback addresses: an entry that leads there is a proxy's, perhaps our own, and no upstream. */
const isLoopback = (address: string) => address.startsWith("127.") || address === "::1";

/**
 * Finds the node's own metadata service: the HyperPod agent where there is one, else EC2's.
 * Never throws; what it could not look at is in the reason.
 */
export async function detectUpstream(sources: DetectionSources = systemSources()): Promise<DetectedUpstream> {
  const agent = endpointText(HYPERPOD_AGENT);
  const found = (upstream: Endpoint, reason: string): DetectedUpstream => ({
    upstream,
    reason,
    certain: true,
  });
  const { rules, problem } = await readRules(sources.iptables);
  for (const state of rules) {
    const target = parseEndpoint(redirectOfEveryone(state) ?? "");
    if (target !== null && !isLoopback(target.address)) {
      return found(target, `an entry in nat OUTPUT sends 169.254.169.254:80 to ${endpointText(target)}`);
    }
  }
  for (const state of rules) {
    const target = parseEndpoint(redirectOfExempt(state) ?? "");
    if (target !== null) {
      return found(target, `our own rules send exempt users to ${endpointText(target)}`);
    }
  }
  if (sources.addresses().includes(HYPERPOD_AGENT.address)) {
    return found(HYPERPOD_AGENT, `${HYPERPOD_AGENT.address} is an address of this node`);
  }
  const reached = await sources.reach(HYPERPOD_AGENT, REACH_TIMEOUT_MS);
  if (reached === "open") return found(HYPERPOD_AGENT, `${agent} answers`);
  const doubts = [
    ...(problem === null ? [] : [`the firewall could not be read (${problem})`]),
    ...(reached === "refused" && !sources.isRoot
      ? [`${agent} could not be reached, which may be our own block`]
      : []),
  ];
  return {
    upstream: METADATA.ipv4,
    reason: `no sign of the HyperPod agent at ${agent}${doubts.length === 0 ? "" : `, but ${doubts.join(", and ")}`}`,
    certain: doubts.length === 0,
  };
}

async function readRules(
  iptables: DetectionSources["iptables"],
): Promise<{ rules: readonly RuleSet[]; problem: string | null }> {
  try {
    const own = await iptables.read("ipv4");
    const other = await iptables.readOtherBackend();
    return { rules: other === null ? [own] : [own, other], problem: null };
  } catch (error) {
    const text = error instanceof ImdsProxyError ? error.problem : String(error);
    return { rules: [], problem: text.replaceAll("\n", " ") };
  }
}

/** The machine's own sources. */
export function systemSources(): DetectionSources {
  return {
    iptables: systemIptables(),
    addresses: () =>
      Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ address }) => address)),
    reach,
    isRoot: process.geteuid?.() === 0,
  };
}

/** Opens a TCP connection and closes it at once. */
export function reach({ address, port }: Endpoint, timeoutMs: number): Promise<Reached> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port });
    const finish = (how: Reached) => {
      cancel();
      socket.destroy();
      resolve(how);
    };
    const cancel = after(timeoutMs, () => finish("silent"));
    socket.once("connect", () => finish("open"));
    socket.once("error", (error: NodeJS.ErrnoException) =>
      finish(error.code === "ECONNREFUSED" || error.code === "ECONNRESET" ? "refused" : "silent"),
    );
  });
}
