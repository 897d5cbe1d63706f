import type { Config } from "../config/schema.ts";
import { METADATA } from "../firewall/addresses.ts";
import { type DetectedUpstream, detectUpstream } from "../firewall/detect.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import type { Log } from "../telemetry/log.ts";
import type { Upstream } from "./upstream.ts";

/** The upstream that the configuration names, or that is detected on the node, with the reason. */
export async function upstreamOf(config: Config): Promise<{ upstream: Endpoint; reason: string }> {
  if (config.upstream !== "auto") return { upstream: config.upstream, reason: "the configuration says so" };
  return detectUpstream();
}

/** Milliseconds between two checks: at first, at most in the first 15 minutes, and afterwards. */
const FIRST_MS = 2_000;
const YOUNG_MS = 30_000;
const OLD_MS = 300_000;
const YOUNG_FOR_MS = 900_000;

/**
 * Looks for the HyperPod agent until it is found, because at boot it may start after the proxy. From then on it is the
 * upstream, also while it is away: EC2's own service has another role, or none.
 *
 * @returns a function that stops the search.
 */
export function followAgent(options: {
  upstream: Pick<Upstream, "endpoint" | "url" | "moveTo">;
  /** Called after the move. Everything that the former service gave must be dropped. */
  onMoved: () => void;
  log: Log;
  clock: Clock;
  /** Default: {@link detectUpstream}. */
  detect?: () => Promise<DetectedUpstream>;
}): () => void {
  const { upstream, log, clock, detect = detectUpstream } = options;
  // Not by the wall clock, which is often set at boot.
  const startedMs = clock.bootMs();
  let stopped = false;
  let cancel = () => {};
  let delayMs = FIRST_MS;

  const isAgent = () => upstream.endpoint.address !== METADATA.ipv4.address;
  const look = async (): Promise<void> => {
    // The list of the node's addresses cannot be had without a free descriptor.
    const found = await detect().catch(() => null);
    if (stopped) return;
    if (found !== null && found.upstream.address !== METADATA.ipv4.address) {
      upstream.moveTo(found.upstream);
      options.onMoved();
      log.info("the upstream has changed", { upstream: upstream.url, because: found.reason });
      return;
    }
    delayMs = clock.bootMs() - startedMs > YOUNG_FOR_MS ? OLD_MS : Math.min(YOUNG_MS, delayMs * 2);
    cancel = clock.schedule(delayMs, () => void look());
  };
  if (!isAgent()) cancel = clock.schedule(delayMs, () => void look());
  return () => {
    stopped = true;
    cancel();
  };
}
