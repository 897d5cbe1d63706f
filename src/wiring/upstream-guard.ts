import { networkInterfaces } from "node:os";
import { parseAddress, sameAddress } from "../identity/address.ts";
import { endpointText } from "../identity/endpoint.ts";
import type { SocketLookup } from "../identity/lookup.ts";
import type { UpstreamGuard } from "../imds/upstream.ts";
import type { Log } from "../telemetry/log.ts";

/** UID_MIN of login.defs(5) on every system that we suit: accounts below are the system's own. */
const FIRST_ORDINARY_UID = 1_000;
/** How often the same complaint is logged, in milliseconds. */
const COMPLAIN_MS = 60_000;

/**
 * Holds impostors off. The HyperPod agent's port is above 1023: while the agent is away, any user can take it, and hand out
 * credentials and metadata of their own to whoever asks. So where the upstream is an address of this node, whoever
 * answers there must be root, a system account, or an exempt user: under which account AWS runs the agent is not
 * documented, but people are not logged in under it. An upstream elsewhere has no socket here; the network vouches for it.
 */
export function upstreamGuard(options: {
  lookup: Pick<SocketLookup, "answererOf">;
  /** Uids that may be the upstream besides root and system accounts. */
  trusted: ReadonlySet<number>;
  log: Log;
  monotonicMs: () => number;
}): UpstreamGuard {
  const { lookup, trusted, log, monotonicMs } = options;
  let complainedMs = Number.NEGATIVE_INFINITY;

  const complain = (why: string): string => {
    if (monotonicMs() - complainedMs >= COMPLAIN_MS) {
      complainedMs = monotonicMs();
      log.error("somebody answers in the upstream's place", {
        why,
        remedy:
          "see who it is with ss -ltnp; if the agent runs under that account, name the account under exempt",
      });
    }
    return why;
  };
  return {
    problem(endpoint, local) {
      const at = { address: parseAddress(endpoint.address), port: endpoint.port };
      if (at.address === null || !isOfThisNode(at.address)) return null;
      const peer = local === null ? null : { address: parseAddress(local.address), port: local.port };
      if (peer !== null && peer.address === null) return complain("our own address cannot be read");
      const uid = lookup.answererOf(
        { address: at.address, port: at.port },
        peer === null || peer.address === null ? null : { address: peer.address, port: peer.port },
      );
      // Nobody listens: the connection will be refused. Nobody, after an answer: then it was not the agent's.
      if (uid === null)
        return local === null ? null : complain(`nobody owns what answered at ${endpointText(endpoint)}`);
      return uid < FIRST_ORDINARY_UID || trusted.has(uid)
        ? null
        : complain(`uid ${uid} answers at ${endpointText(endpoint)}`);
    },
  };
}

/** 127.0.0.0/8 is this node's, whether or not an interface has the address. */
function isOfThisNode(address: Uint8Array): boolean {
  if (address.length === 4 && address[0] === 127) return true;
  return Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ address: text }) => {
      const own = parseAddress(text);
      return own !== null && sameAddress(own, address);
    }),
  );
}
