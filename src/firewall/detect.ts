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

/** The upstream that `upstream: auto` means on this node, and why. */
export interface DetectedUpstream {
  readonly upstream: Endpoint;
  /** The evidence, and what could not be examined, as text for logs and people. */
  readonly reason: string;
  /** False where something could not be examined: root may find another upstream. */
  readonly certain: boolean;
}

/** How a connection attempt ended. `refused` does not prove that there is a host: Bun 1.4 reports an unreachable network so, too. */
export type Reached = "open" | "refused" | "silent";

/** What detection examines; by default, this machine. */
export interface DetectionSources {
  readonly iptables: Pick<Iptables, "read" | "readOtherBackend">;
  /** Local addresses of the node. */
  addresses(): readonly string[];
  reach(endpoint: Endpoint, timeoutMs: number): Promise<Reached>;
  /** Whether this process is exempt from our rules. Where it is not, our own block may be what refuses. */
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
