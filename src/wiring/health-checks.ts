import type { FirewallHealth } from "../telemetry/firewall-health.ts";
import type { Finding } from "../telemetry/health.ts";
import type { Upstream } from "../upstream/upstream.ts";

/** The checks that are made when somebody asks for the health of the service. */

/** Asks the upstream for a value that every node has. */
export async function upstreamFinding(upstream: Pick<Upstream, "read" | "url">): Promise<Finding | null> {
  const found = await upstream.read("latest", "meta-data/instance-id");
  if (found.kind !== "failed") return null;
  return {
    what: `the node's own metadata service at ${upstream.url} does not answer: ${found.why}`,
    remedy:
      "see that it runs (on HyperPod its agent: ss -ltnp 'sport = 9081'), and that root gets an answer: curl -sS " +
      `${upstream.url}/latest/meta-data/`,
    lasting: false,
  };
}

/** The last result of the watch over the firewall rules. */
export function firewallFinding(state: FirewallHealth | null): Finding | null {
  if (state === null || state.healthy) return null;
  return {
    what: "the firewall rules are not as they should be, and could not be put right",
    remedy: "sudo imdsproxy iptables status; journalctl -u imdsproxy-repair",
    lasting: false,
  };
}

/** What AWS takes, in milliseconds ("Signature expired: … 5 min."). */
const TAKEN_MS = 5 * 60_000;

/**
 * A clock that is wrong by more than AWS takes. The proxy measures the difference and goes on; users' programs need not.
 *
 * @param offsetMs by how much STS's clock is ahead of the node's, in milliseconds.
 */
export function clockFinding(offsetMs: number): Finding | null {
  if (Math.abs(offsetMs) < TAKEN_MS) return null;
  const minutes = Math.round(Math.abs(offsetMs) / 60_000);
  const way = offsetMs > 0 ? "behind" : "ahead of";
  return {
    what: `the node's clock is ${minutes} minutes ${way} STS's, and AWS refuses requests that are more than 5 minutes off: users have credentials, and programs that do not correct the time are refused`,
    remedy: "set the node's clock: chronyc tracking; chronyc makestep",
    lasting: true,
  };
}
