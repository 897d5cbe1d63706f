import type { Source } from "../config/remote.ts";
import { getObject, type S3Answer } from "./s3.ts";
import type { Credentials } from "./signed-request.ts";
import { getParameter } from "./ssm.ts";

/** The fleet's object, from wherever it is. */

export interface FetchRequest {
  readonly source: Source;
  /** The region that was configured; null: that of the source's ARN, else the node's. */
  readonly region: string | null;
  readonly nodeRegion: () => Promise<string>;
  /** Where S3 or SSM answers; null: at the region's endpoint. */
  readonly endpoint: string | null;
  readonly credentials: () => Promise<Credentials>;
  /** The entity tag of the copy: S3 then sends the object only if it is another. Null: in any case. SSM sends it always. */
  readonly etag: string | null;
  /** The longest object in bytes. */
  readonly mostBytes: number;
}

/**
 * Fetches once. A parameter has no entity tag, and its version begins at 1 again where it is deleted and made anew: so the content of
 * each answer is compared. @throws ImdsProxyError `upstream` where the node gives no credentials or no region.
 */
export async function fetchSource(request: FetchRequest): Promise<S3Answer> {
  const { source, endpoint, etag, mostBytes } = request;
  if ("bucket" in source) {
    const region = request.region ?? (await request.nodeRegion());
    const credentials = await request.credentials();
    return getObject({ location: source, region, endpoint, credentials, etag, mostBytes });
  }
  const region = request.region ?? source.region ?? (await request.nodeRegion());
  const found = await getParameter({
    location: source,
    region,
    endpoint,
    credentials: await request.credentials(),
  });
  return found.kind === "found" ? { ...found, etag: null } : found;
}
