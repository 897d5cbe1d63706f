import type { Config } from "../config/schema.ts";
import { METADATA } from "../firewall/addresses.ts";
import { detectUpstream } from "../firewall/detect.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import type { Log } from "../telemetry/log.ts";
import type { Upstream } from "./upstream.ts";

/** The upstream that the configuration names, or that the node shows, and why. */
export async function upstreamOf(config: Config): Promise<{ upstream: Endpoint; reason: string }> {
  if (config.upstream !== "auto") return { upstream: config.upstream, reason: "the configuration says so" };
  return detectUpstream();
}

/** Milliseconds between two looks: at first, at most while the node is young, and afterwards. */
const FIRST_MS = 2_000;
const YOUNG_MS = 30_000;
const OLD_MS = 300_000;
const YOUNG_FOR_MS = 900_000;

/**
 * Looks out for the HyperPod agent as long as there was no sign of it: at boot it may come after us. Once it is there, it
 * stays the upstream: EC2's own service has another role, or none.
 *
 * @returns stops it.
 */
export function followAgent(options: {
  upstream: Pick<Upstream, "endpoint" | "url" | "moveTo">;
  /** Called after the move: what came of the other service is void. */
  onMoved: () => void;
  log: Log;
  clock: Clock;
}): () => void {
  const { upstream, log, clock } = options;
  const startedMs = clock.now();
  let stopped = false;
  let cancel = () => {};
  let delayMs = FIRST_MS;

  const isAgent = () => upstream.endpoint.address !== METADATA.ipv4.address;
  const look = async (): Promise<void> => {
    const found = await detectUpstream();
    if (stopped) return;
    if (found.upstream.address !== METADATA.ipv4.address) {
      upstream.moveTo(found.upstream);
      options.onMoved();
      log.info("the upstream is another now", { upstream: upstream.url, because: found.reason });
      return;
    }
    delayMs = clock.now() - startedMs > YOUNG_FOR_MS ? OLD_MS : Math.min(YOUNG_MS, delayMs * 2);
    cancel = clock.schedule(delayMs, () => void look());
  };
  if (!isAgent()) cancel = clock.schedule(delayMs, () => void look());
  return () => {
    stopped = true;
    cancel();
  };
}
