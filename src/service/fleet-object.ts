import { type ConfigFile, DEFAULT_CONFIG_PATH, parseFile, textOfFile } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { type PollOptions, type PollResult, poll } from "../fleet/poll.ts";
import { systemClock } from "../platform/clock.ts";
import { MetadataCache } from "../upstream/cache.ts";
import { upstreamOf } from "../upstream/locator.ts";
import { regionOf } from "../upstream/region.ts";
import { Upstream } from "../upstream/upstream.ts";
import { findAccount } from "./facts.ts";

/** The fleet's object on this node: polled with the instance role, which only root and the service reach. */

/** What a poll needs of the node. */
type NodeSources = Pick<PollOptions, "credentials" | "region" | "gid" | "now">;

/** Runs `work` with what the upstream gives. It is asked directly, not through the proxy. @throws ImdsProxyError `upstream`. */
export async function withNodeSources<T>(
  config: Config,
  work: (sources: NodeSources) => Promise<T>,
): Promise<T> {
  const { upstream: endpoint } = await upstreamOf(config);
  const upstream = new Upstream({ endpoint, clock: systemClock });
  const metadata = new MetadataCache({ source: upstream, clock: systemClock });
  const account = await findAccount();
  try {
    return await work({
      credentials: () => upstream.credentials(),
      region: () => (config.region === "auto" ? regionOf(metadata) : Promise.resolve(config.region)),
      gid: account?.gid ?? 0,
      now: () => systemClock.now(),
    });
  } finally {
    upstream.close();
  }
}

/** The configuration's own file, without the object. @throws ImdsProxyError `config`. */
export const nodeFile = (path: string = DEFAULT_CONFIG_PATH): ConfigFile =>
  parseFile(textOfFile(path, "the configuration", "name an existing file with --config FILE"), path);

/** Polls once, and stores the object where it is accepted. */
export const pollHere = (file: ConfigFile, options: { readonly dryRun: boolean }): Promise<PollResult> =>
  withNodeSources(file.config, (sources) => poll({ file, ...sources, ...options }));
