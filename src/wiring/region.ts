import { ImdsProxyError } from "../errors.ts";
import type { MetadataCache } from "../imds/metadata.ts";

/** Whose share of the upstream what we need ourselves comes from: no uid is negative. */
const OURSELVES = -1;

/**
 * The node's region by its metadata: `placement/region`, or where an older service has none, the region that its
 * availability zone begins with (`us-west-2` of `us-west-2b`, and of the local zone `us-west-2-lax-1a`).
 *
 * @throws ImdsProxyError `upstream` where neither is told.
 */
export async function regionOf(metadata: Pick<MetadataCache, "read">): Promise<string> {
  const read = async (path: string): Promise<string> => {
    const found = await metadata.read("latest", path, OURSELVES);
    return found.kind === "found" ? found.body.trim() : "";
  };
  const region = await read("meta-data/placement/region");
  if (/^[a-z]{2,}(?:-[a-z]+)+-\d{1,2}$/.test(region)) return region;
  const zone = /^[a-z]{2,}(?:-[a-z]+)+?-\d{1,2}/.exec(await read("meta-data/placement/availability-zone"));
  if (zone !== null) return zone[0];
  throw new ImdsProxyError(
    "upstream",
    "the upstream does not tell the node's region",
    "set region in the configuration",
  );
}
