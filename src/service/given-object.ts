import { createHash } from "node:crypto";
import { parseDocument } from "yaml";
import { parseConfig } from "../config/load.ts";
import { MOST_OBJECT_BYTES, OBJECT_KEYS, textOfBytes } from "../config/object.ts";
import type { ConfigOverrides } from "../config/overrides.ts";
import { parseSource } from "../config/remote.ts";
import { ImdsProxyError } from "../errors.ts";
import { fetchSource } from "../fleet/source.ts";
import { withNodeSources } from "./fleet-object.ts";

/** A configuration that setup takes once from S3 or SSM: `setup --config s3://BUCKET/KEY`, `ssm:NAME`. It is not polled. */

export interface GivenObject {
  readonly url: string;
  /** The SHA-256 that its bytes must have, in hexadecimal; null: none is asked for. */
  readonly sha256: string | null;
  readonly overrides: ConfigOverrides;
  /** Where S3 or SSM answers, as the SDKs' AWS_ENDPOINT_URL_S3 and _SSM have it; null: at the region's endpoint. */
  readonly endpoint: string | null;
  /** The configuration that the node has; null where it has none. */
  readonly installed: string | null;
}

/** @throws ImdsProxyError `unhealthy` where it cannot be had, `config` where it may not be taken. */
export async function takeObject({
  url,
  sha256,
  overrides,
  endpoint,
  installed,
}: GivenObject): Promise<string> {
  const source = parseSource(url);
  if (source === null) {
    throw new ImdsProxyError(
      "usage",
      `setup: --config is ${JSON.stringify(url)}, which is no object of S3 and no parameter of SSM`,
      "such as s3://BUCKET/imdsproxy.yaml, or ssm:/imdsproxy/rules",
    );
  }
  // Needed only to find the upstream and the region.
  const config = parseConfig("", "the flags", overrides);
  const answer = await withNodeSources(config, ({ region, credentials }) =>
    fetchSource({
      source,
      region: null,
      nodeRegion: region,
      endpoint,
      credentials,
      etag: null,
      mostBytes: MOST_OBJECT_BYTES,
    }),
  );
  if (answer.kind !== "found") {
    const [why, remedy] =
      answer.kind === "failed" ? [answer.why, answer.remedy] : ["it has not changed", null];
    throw new ImdsProxyError("unhealthy", `setup: cannot fetch ${url}: ${why}`, remedy ?? "run it again");
  }
  return judged(answer.bytes, { url, sha256, installed });
}

/**
 * The text to install. Where its hash was given, it may be any configuration, like a local file. Else it may have only the keys
 * {@link OBJECT_KEYS}, which replace those of the node: whoever can write to the bucket must not control root's firewall. Pure.
 */
export function judged(
  bytes: Uint8Array,
  { url, sha256, installed }: Pick<GivenObject, "url" | "sha256" | "installed">,
): string {
  const found = createHash("sha256").update(bytes).digest("hex");
  if (sha256 !== null && found !== sha256.toLowerCase()) {
    throw new ImdsProxyError(
      "config",
      `${url} has the SHA-256 ${found}, and --config-sha256 is ${sha256.toLowerCase()}`,
      "it was changed since: look at it, then name the hash that it shall have",
    );
  }
  const text = textOfBytes(bytes);
  if (text === null) throw new ImdsProxyError("config", `${url} is not text in UTF-8`, "save it as UTF-8");
  if (sha256 !== null) return text;
  // A text that does not parse is returned as it is, because wantedConfiguration() reports its errors with their lines.
  const given = parseDocument(text, { logLevel: "error" });
  let keys: unknown = null;
  try {
    if (given.errors.length === 0) keys = given.toJS({ maxAliasCount: 100 });
  } catch {
    // Too many aliases.
  }
  if (typeof keys !== "object" || keys === null || Array.isArray(keys)) return text;
  const foreign = Object.keys(keys).filter((key) => !OBJECT_KEYS.some((known) => known === key));
  if (foreign.length > 0) {
    throw new ImdsProxyError(
      "config",
      `${url} has the keys ${foreign.join(", ")}, and only ${OBJECT_KEYS.join(", ")} are taken from S3 or SSM without a hash`,
      "name its hash: --config-sha256 $(sha256sum FILE | cut -c1-64); or keep these keys in a file of the node's own",
    );
  }
  if (installed === null) return text;
  const document = parseDocument(installed);
  for (const key of OBJECT_KEYS) {
    if (given.has(key)) document.set(key, given.get(key, true));
    else document.delete(key);
  }
  return document.toString({ lineWidth: 0 });
}
