import type { S3Location } from "../config/remote.ts";
import {
  type Credentials,
  failed,
  type SignedAnswer,
  sendSigned,
  serviceEndpoint,
  type Unfetched,
} from "./signed-request.ts";

/** One signed, conditional GET of an object (Amazon S3 API Reference, "GetObject"). */

export interface S3Request {
  readonly location: S3Location;
  readonly region: string;
  /** Where S3 answers; null: at the region's endpoint. */
  readonly endpoint: string | null;
  readonly credentials: Credentials;
  /** The entity tag of the copy, for If-None-Match: S3 then sends the object only if it is another. Null: S3 sends it in any case. */
  readonly etag: string | null;
  /** The longest object in bytes. */
  readonly mostBytes: number;
  /** Milliseconds for everything. Default 20,000. */
  readonly limitMs?: number;
}

export type S3Answer =
  | { readonly kind: "found"; readonly bytes: Uint8Array; readonly etag: string | null }
  /** It has the entity tag that was named. */
  | { readonly kind: "unchanged" }
  | Unfetched;

/** An entity tag that is kept (RFC 9110, section 8.8.3); S3's are short. */
const ETAG = /^(?:W\/)?"[\x21\x23-\x7e]{0,200}"$/;

/**
 * The URL of an object. The bucket is in the host's name where a certificate covers that, else in the path (Amazon S3 User Guide,
 * "Virtual hosting of buckets"); at a configured endpoint always in the path. Pure.
 */
export function objectUrl({ bucket, key }: S3Location, endpoint: string, isOwn: boolean): URL {
  // Characters that encodeURIComponent leaves, and that the signature's rules encode (Amazon S3 API Reference, "UriEncode").
  const encoded = key
    .split("/")
    .map((segment) =>
      encodeURIComponent(segment).replaceAll(
        /[!'()*]/g,
        (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`,
      ),
    )
    .join("/");
  const url = new URL(endpoint);
  if (isOwn || bucket.includes(".")) return new URL(`/${bucket}/${encoded}`, url);
  url.hostname = `${bucket}.${url.hostname}`;
  return new URL(`/${encoded}`, url);
}

/** Fetches an object. Nothing that the server does rejects the promise. */
export async function getObject(request: S3Request): Promise<S3Answer> {
  const { region, credentials, mostBytes, limitMs } = request;
  const endpoint = request.endpoint ?? (await serviceEndpoint("s3", region));
  const answer = await sendSigned({
    service: "s3",
    region,
    credentials,
    url: objectUrl(request.location, endpoint, request.endpoint !== null),
    method: "GET",
    headers: request.etag === null ? {} : { "if-none-match": request.etag },
    mostBytes,
    limitMs,
  });
  if (answer.kind === "too-long")
    return failed(`the object has more than ${mostBytes} bytes`, "see what was put there in its place");
  if (answer.kind === "failed") return answer;
  if (answer.status === 200) {
    const etag = answer.headers.etag ?? "";
    return { kind: "found", bytes: answer.bytes, etag: ETAG.test(etag) ? etag : null };
  }
  if (answer.status === 304 && request.etag !== null) return { kind: "unchanged" };
  return failureOf(answer, request);
}

/** Explains an answer without the object. Pure. */
function failureOf(
  { status, headers, bytes }: Extract<SignedAnswer, { kind: "answered" }>,
  { location, region }: S3Request,
): Unfetched {
  const code = /<Code>([A-Za-z]{1,60})<\/Code>/.exec(Buffer.from(bytes).toString("latin1"))?.[1];
  const said = code === undefined ? `status ${status}` : `status ${status}, ${code}`;
  const { bucket, key } = location;
  const of = headers["x-amz-bucket-region"];
  const actual = typeof of === "string" && /^[a-z0-9-]{1,40}$/.test(of) && of !== region ? of : null;
  if (actual !== null && (status === 301 || status === 307 || status === 400)) {
    return failed(
      `the bucket ${bucket} is in ${actual}, and ${region} was asked (${said})`,
      `set config.region: ${actual}`,
    );
  }
  if (status >= 300 && status < 400 && status !== 304) {
    return failed(
      `S3 answered with a redirect (${said}), which is not followed`,
      "set config.region to the region of the bucket, or config.endpoint to where S3 answers",
    );
  }
  if (status === 401 || status === 403) {
    return failed(
      `S3 refuses the object to the instance role (${said})`,
      `allow it s3:GetObject on the object ${key} of the bucket ${bucket}, and kms:Decrypt where a key of KMS encrypts it; see that the node's clock is right`,
    );
  }
  if (status === 404) {
    return failed(`there is no such object (${said})`, `see what is there: aws s3 ls s3://${bucket}/`);
  }
  return failed(`S3 gives no object (${said})`, "if S3 is at fault, the next poll may succeed");
}
