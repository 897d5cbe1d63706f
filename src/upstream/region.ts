import { ImdsProxyError } from "../errors.ts";
import { sleep } from "../platform/clock.ts";
import type { Log } from "../telemetry/log.ts";
import type { MetadataCache } from "./cache.ts";

/** The subject under which the proxy's own requests to the upstream are counted: no uid is negative. */
const OURSELVES = -1;

/**
 * Milliseconds that a request waits for an upstream that hangs, where its last answer is known. Clients wait a second for each answer
 * at least, and the request for the region is one of two or three that the same answer may need.
 */
const HANGS_MS = 250;

/** The region whose STS is asked. */
export interface Region {
  /** @throws ImdsProxyError `upstream` where nobody tells it. */
  find(): Promise<string>;
  /** The same for the texts of sessions; null where the upstream answers and has none. @throws ImdsProxyError where it does not answer. */
  told(): Promise<string | null>;
  /** Drops the region, because it came from a service that is not the upstream any more. */
  forget(): void;
}

/** The region that the configuration names, for STS alone: the texts of sessions have the region that the metadata service tells. */
export const fixedRegion = (region: string, ofNode: Region): Region => ({
  ...ofNode,
  find: async () => region,
});

/**
 * The node's own region. The upstream is asked each time, through the cache, so that a wrong answer is kept no longer than
 * any other. While the upstream is away, its last answer holds.
 */
export function nodeRegion(options: {
  metadata: Pick<MetadataCache, "read">;
  log: Pick<Log, "warn">;
}): Region {
  let last: string | null = null;
  const node: Region = {
    async find() {
      let found: string;
      try {
        found = await regionOf(options.metadata);
      } catch (error) {
        if (last !== null && error instanceof UpstreamAway) return last;
        throw error;
      }
      if (last !== null && last !== found)
        options.log.warn("the upstream names another region than before", { region: found, before: last });
      last = found;
      return found;
    },
    async told() {
      const known = last;
      try {
        const found = node.find();
        if (known === null) return await found;
        return await Promise.race([found, sleep(HANGS_MS).then(() => known)]);
      } catch (error) {
        if (error instanceof UpstreamAway || !(error instanceof ImdsProxyError)) throw error;
        return null;
      }
    },
    forget() {
      last = null;
    },
  };
  return node;
}

/** The upstream did not answer: whether it has a region is unknown. */
class UpstreamAway extends ImdsProxyError {}

/**
 * The node's region by its metadata: `placement/region`, or where an older service has none, the region that its
 * availability zone begins with (`us-west-2` of `us-west-2b`, and of the local zone `us-west-2-lax-1a`).
 *
 * @throws ImdsProxyError `upstream` where the metadata service gives neither.
 */
export async function regionOf(metadata: Pick<MetadataCache, "read">): Promise<string> {
  const read = async (path: string): Promise<string> => {
    const found = await metadata.read("latest", path, OURSELVES);
    if (found.kind === "failed") {
      throw new UpstreamAway(
        "upstream",
        `the node's region is not known, since its metadata service does not tell it for now: ${found.why}`,
      );
    }
    return found.kind === "found" ? found.body.trim() : "";
  };
  const region = await read("meta-data/placement/region");
  if (/^[a-z]{2,}(?:-[a-z]+)+-\d{1,2}$/.test(region)) return region;
  const zone = /^[a-z]{2,}(?:-[a-z]+)+?-\d{1,2}/.exec(await read("meta-data/placement/availability-zone"));
  if (zone !== null) return zone[0];
  throw new ImdsProxyError(
    "upstream",
    "the node's metadata service has no region for it",
    "set region in the configuration",
  );
}
