import { ImdsProxyError } from "../errors.ts";
import { StsFailure } from "./failure.ts";

/** The node's own credentials, as the metadata service upstream gives them. */
export interface InstanceCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string;
  /** Milliseconds since the epoch. */
  readonly expiresAtMs: number;
}

/** The SDK's AwsCredentialIdentity, with every field required. */
export interface SignerCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string;
  readonly expiration: Date;
}

/** What the sessions need of the metadata service upstream. */
export interface InstanceMetadata {
  /** Fetches them at each call, and keeps none: the SDK caches them until 5 minutes before they expire. */
  credentials(): Promise<InstanceCredentials>;
}

/**
 * The node's credentials for the SDK's signer, from our own upstream client.
 *
 * The SDK's `fromInstanceMetadata` takes its endpoint from the environment or ~/.aws/config only
 * (@smithy/credential-provider-imds, utils/getInstanceMetadataEndpoint.js), which every child process would inherit;
 * it also falls back to IMDSv1 for good after one time-out, and goes on using expired credentials. And with a
 * provider given, the SDK does not look at AWS_ACCESS_KEY_ID, profiles, containers or web identities: the daemon
 * signs as the node's role or not at all.
 *
 * The SDK wraps its client's provider in memoizeIdentityProvider (@smithy/core), which calls this one once and caches the
 * credentials. In the last 5 minutes of their life it calls this one again (two or three times) for each request.
 */
export function fromUpstream(metadata: InstanceMetadata): () => Promise<SignerCredentials> {
  return async () => {
    let found: InstanceCredentials;
    try {
      found = await metadata.credentials();
    } catch (error) {
      throw noCredentials(error instanceof ImdsProxyError ? error.problem : unforeseen(error));
    }
    const { accessKeyId, secretAccessKey, sessionToken, expiresAtMs } = found;
    if (!accessKeyId || !secretAccessKey || !sessionToken || !Number.isFinite(expiresAtMs)) {
      throw noCredentials("the metadata service upstream gave incomplete credentials");
    }
    return { accessKeyId, secretAccessKey, sessionToken, expiration: new Date(expiresAtMs) };
  };
}

function unforeseen(error: unknown): string {
  return `asking the metadata service upstream failed (${error instanceof Error ? error.constructor.name : typeof error})`;
}

function noCredentials(detail: string): StsFailure {
  return new StsFailure({
    kind: "transient",
    code: "credentials",
    message: "the node's own credentials are not available for now; try again shortly",
    detail,
  });
}
