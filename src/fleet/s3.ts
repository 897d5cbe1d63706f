import { createHash, createHmac } from "node:crypto";
import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import type { S3Location } from "../config/remote.ts";
import { after, systemClock } from "../platform/clock.ts";
import type { InstanceCredentials } from "../sessions/instance-credentials.ts";
import { stsEndpoint } from "../sessions/sts.ts";

/** One signed, conditional GET of an object (Amazon S3 API Reference, "GetObject"). An edge: no secret leaves it. */

export interface S3Request {
  readonly location: S3Location;
  readonly region: string;
  /** Where S3 answers; null: at the region's endpoint. */
  readonly endpoint: string | null;
  readonly credentials: Omit<InstanceCredentials, "expiresAtMs">;
  /** The entity tag of what is there already: then only something else is sent. Null: the object in any case. */
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
  /** `why` is a sentence without its end and without anything that the other side could choose, but for a code of S3's. */
  | { readonly kind: "failed"; readonly why: string; readonly remedy: string };

const LIMIT_MS = 20_000;
/** What of an error's body is read, for its code. */
const MOST_ERROR_BYTES = 64 * 1024;
/** An entity tag that is kept (RFC 9110, section 8.8.3); S3's are short. */
const ETAG = /^(?:W\/)?"[\x21\x23-\x7e]{0,200}"$/;

/**
 * Where S3 answers in a region: as STS's regional endpoint, with the suffix that the partition has (AWS General Reference, "Amazon S3
 * endpoints").
 */
export async function s3Endpoint(region: string): Promise<string> {
  const url = new URL(await stsEndpoint(region));
  url.hostname = url.hostname.replace(/^sts\./, "s3.");
  return url.origin;
}

/**
 * The URL of an object. The bucket is in the host's name where a certificate covers that, else in the path (Amazon S3 User Guide,
 * "Virtual hosting of buckets"); at an endpoint of one's own always in the path. Pure.
 */
export function objectUrl({ bucket, key }: S3Location, endpoint: string, isOwn: boolean): URL {
  // What encodeURIComponent leaves, and the signature's rules do not (Amazon S3 API Reference, "UriEncode").
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

/** Asks for an object. Never rejects for what the other side does. */
export async function getObject(request: S3Request): Promise<S3Answer> {
  const endpoint = request.endpoint ?? (await s3Endpoint(request.region));
  const url = objectUrl(request.location, endpoint, request.endpoint !== null);
  const headers = await signedHeaders(url, request);
  return new Promise((resolve) => {
    let hasEnded = false;
    const end = (answer: S3Answer) => {
      if (hasEnded) return;
      hasEnded = true;
      cancel();
      outgoing.destroy();
      resolve(answer);
    };
    const fail = (why: string, remedy: string) => end({ kind: "failed", why, remedy });
    const limitMs = request.limitMs ?? LIMIT_MS;
    const cancel = after(limitMs, () =>
      fail(
        `${url.host} has not sent the object within ${limitMs / 1000} s`,
        `see whether the node reaches it: curl -sS -o /dev/null -w '%{http_code}\\n' ${url.origin}`,
      ),
    );
    // node:http, which follows no redirect and heeds no HTTP_PROXY.
    const send = url.protocol === "https:" ? httpsRequest : httpRequest;
    const outgoing = send(url, { method: "GET", headers, agent: false }, (incoming) => {
      const status = incoming.statusCode ?? 0;
      const most = status === 200 ? request.mostBytes : MOST_ERROR_BYTES;
      const announced = Number(incoming.headers["content-length"] ?? Number.NaN);
      const parts: Uint8Array[] = [];
      let length = 0;
      const tooLong = () => {
        if (status === 200) {
          fail(`the object has more than ${request.mostBytes} bytes`, "see what was put there in its place");
        } else finish();
      };
      const finish = () => {
        const bytes = Buffer.concat(parts);
        if (status === 200 && Number.isFinite(announced) && announced !== bytes.length) {
          fail(
            `${url.host} sent ${bytes.length} bytes of ${announced}`,
            "it passes where the connection was cut off; see the next poll",
          );
        } else if (status === 200) {
          const etag = incoming.headers.etag ?? "";
          end({ kind: "found", bytes, etag: ETAG.test(etag) ? etag : null });
        } else if (status === 304 && request.etag !== null) end({ kind: "unchanged" });
        else end(failureOf(status, bytes, incoming.headers, request));
      };
      if (status === 200 && announced > most) return tooLong();
      incoming.on("data", (part: Uint8Array) => {
        length += part.length;
        if (length > most) tooLong();
        else parts.push(part);
      });
      const cut = () =>
        fail(
          `${url.host} cut the connection off`,
          "it passes where the network is at fault; see the next poll",
        );
      incoming.on("error", cut);
      incoming.on("aborted", cut);
      incoming.on("end", finish);
    });
    outgoing.on("error", (error: NodeJS.ErrnoException) =>
      fail(
        `${url.host} cannot be reached (${codeOf(error)})`,
        "see that the node reaches S3: a route, a VPC endpoint, DNS, the proxy's own name in config.endpoint",
      ),
    );
    outgoing.end();
  });
}

const codeOf = (error: NodeJS.ErrnoException): string =>
  /^[A-Z0-9_]{1,60}$/.test(error.code ?? "") ? (error.code ?? "") : error.name;

/** What an answer without the object means. Pure. */
function failureOf(
  status: number,
  body: Uint8Array,
  headers: Readonly<Record<string, string | string[] | undefined>>,
  { location, region }: S3Request,
): S3Answer {
  const code = /<Code>([A-Za-z]{1,60})<\/Code>/.exec(Buffer.from(body).toString("latin1"))?.[1];
  const said = code === undefined ? `status ${status}` : `status ${status}, ${code}`;
  const { bucket, key } = location;
  const failed = (why: string, remedy: string): S3Answer => ({ kind: "failed", why, remedy });
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
      `S3 leads elsewhere (${said}), and no redirect is followed`,
      "set config.region to the region of the bucket, or config.endpoint to where S3 answers",
    );
  }
  if (status === 401 || status === 403) {
    return failed(
      `S3 refuses the object to the instance role (${said})`,
      `allow it s3:GetObject on arn:aws:s3:::${bucket}/${key}, and kms:Decrypt where a key of KMS encrypts it; see that the node's clock is right`,
    );
  }
  if (status === 404) {
    return failed(`there is no such object (${said})`, `see what is there: aws s3 ls s3://${bucket}/`);
  }
  return failed(`S3 gives no object (${said})`, "it passes where S3 is at fault; see the next poll");
}

/** The headers of the request, signed (AWS Signature Version 4 by the SDK's own signer, which is loaded only here). */
async function signedHeaders(
  url: URL,
  { region, credentials, etag }: S3Request,
): Promise<Record<string, string>> {
  const { SignatureV4 } = await import("@smithy/signature-v4");
  const signer = new SignatureV4({
    service: "s3",
    region,
    credentials,
    sha256: Sha256,
    // S3 signs the path as it is sent.
    uriEscapePath: false,
    applyChecksum: true,
  });
  const { headers } = await signer.sign(
    {
      method: "GET",
      protocol: url.protocol,
      hostname: url.hostname,
      path: url.pathname,
      headers: {
        host: url.host,
        "accept-encoding": "identity",
        ...(etag === null ? {} : { "if-none-match": etag }),
      },
    },
    { signingDate: new Date(systemClock.now()) },
  );
  return headers;
}

/** SHA-256 as the signer takes it (ChecksumConstructor in @smithy/types): HMAC where there is a key. */
class Sha256 {
  readonly #key: string | ArrayBuffer | ArrayBufferView | undefined;
  #parts: Buffer[] = [];
  constructor(key?: string | ArrayBuffer | ArrayBufferView) {
    this.#key = key;
  }
  update(data: string | ArrayBuffer | ArrayBufferView): void {
    this.#parts.push(bufferOf(data));
  }
  async digest(): Promise<Uint8Array> {
    const data = Buffer.concat(this.#parts);
    return this.#key === undefined
      ? createHash("sha256").update(data).digest()
      : createHmac("sha256", bufferOf(this.#key)).update(data).digest();
  }
  reset(): void {
    this.#parts = [];
  }
}

function bufferOf(data: string | ArrayBuffer | ArrayBufferView): Buffer {
  if (typeof data === "string") return Buffer.from(data);
  return data instanceof ArrayBuffer
    ? Buffer.from(data)
    : Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}
