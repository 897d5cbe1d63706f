import { createHash, createHmac } from "node:crypto";
import { request as httpRequest, type IncomingHttpHeaders } from "node:http";
import { request as httpsRequest } from "node:https";
import { after, systemClock } from "../platform/clock.ts";
import type { InstanceCredentials } from "../sessions/instance-credentials.ts";
import { stsEndpoint } from "../sessions/sts.ts";

/** One signed request to a service of AWS, bounded in bytes and time. An edge: no secret leaves it. */

export type Credentials = Omit<InstanceCredentials, "expiresAtMs">;

export interface SignedRequest {
  readonly service: "s3" | "ssm";
  readonly region: string;
  readonly credentials: Credentials;
  readonly url: URL;
  readonly method: "GET" | "POST";
  /** Besides those of the signature. */
  readonly headers: Readonly<Record<string, string>>;
  /** Default: none. */
  readonly body?: string;
  /** The longest body of an answer of 200, in bytes. Of others, 64 KiB are read. */
  readonly mostBytes: number;
  /** Milliseconds for everything. Default 20,000. */
  readonly limitMs?: number | undefined;
}

export type SignedAnswer =
  /** The body is whole where the status is 200, and may be cut off where it is another. */
  | {
      readonly kind: "answered";
      readonly status: number;
      readonly headers: IncomingHttpHeaders;
      readonly bytes: Uint8Array;
    }
  /** The body of an answer of 200 has more bytes than it may have. */
  | { readonly kind: "too-long" }
  | Unfetched;

/** Nothing was fetched. `why` is a sentence without a final stop. Of what the server chooses, it holds only a code. */
export interface Unfetched {
  readonly kind: "failed";
  readonly why: string;
  readonly remedy: string;
}

export const failed = (why: string, remedy: string): Unfetched => ({ kind: "failed", why, remedy });

const LIMIT_MS = 20_000;
/** How much of an error's body is read, to find its code. */
const MOST_ERROR_BYTES = 64 * 1024;
const NAMES = { s3: "S3", ssm: "SSM" } as const;

/**
 * Where a service answers in a region: as STS's regional endpoint, with the suffix that the partition has (AWS General Reference,
 * "Service endpoints").
 */
export async function serviceEndpoint(service: SignedRequest["service"], region: string): Promise<string> {
  const url = new URL(await stsEndpoint(region));
  url.hostname = url.hostname.replace(/^sts\./, `${service}.`);
  return url.origin;
}

/** Sends the request. Nothing that the server does rejects the promise. */
export async function sendSigned(request: SignedRequest): Promise<SignedAnswer> {
  const { url, method, body } = request;
  const headers = await signedHeaders(request);
  return new Promise((resolve) => {
    let hasEnded = false;
    const end = (answer: SignedAnswer) => {
      if (hasEnded) return;
      hasEnded = true;
      cancel();
      outgoing.destroy();
      resolve(answer);
    };
    const fail = (why: string, remedy: string) => end(failed(why, remedy));
    const limitMs = request.limitMs ?? LIMIT_MS;
    const cancel = after(limitMs, () =>
      fail(
        `${url.host} has not sent the object within ${limitMs / 1000} s`,
        `see whether the node reaches it: curl -sS -o /dev/null -w '%{http_code}\\n' ${url.origin}`,
      ),
    );
    // node:http, because it follows no redirect and ignores HTTP_PROXY.
    const send = url.protocol === "https:" ? httpsRequest : httpRequest;
    const outgoing = send(url, { method, headers, agent: false }, (incoming) => {
      const status = incoming.statusCode ?? 0;
      const most = status === 200 ? request.mostBytes : MOST_ERROR_BYTES;
      const announced = Number(incoming.headers["content-length"] ?? Number.NaN);
      const parts: Uint8Array[] = [];
      let length = 0;
      const finish = () => {
        const bytes = Buffer.concat(parts);
        if (status === 200 && Number.isFinite(announced) && announced !== bytes.length) {
          fail(
            `${url.host} sent ${bytes.length} bytes of ${announced}`,
            "if the connection was cut off, the next poll may succeed",
          );
        } else end({ kind: "answered", status, headers: incoming.headers, bytes });
      };
      const tooLong = () => (status === 200 ? end({ kind: "too-long" }) : finish());
      if (status === 200 && announced > most) return tooLong();
      incoming.on("data", (part: Uint8Array) => {
        length += part.length;
        if (length > most) tooLong();
        else parts.push(part);
      });
      const cut = () =>
        fail(`${url.host} cut the connection off`, "if the network is at fault, the next poll may succeed");
      incoming.on("error", cut);
      incoming.on("aborted", cut);
      incoming.on("end", finish);
    });
    outgoing.on("error", (error: NodeJS.ErrnoException) =>
      fail(
        `${url.host} cannot be reached (${codeOf(error)})`,
        `see that the node reaches ${NAMES[request.service]}: a route, a VPC endpoint, DNS, the proxy's own name in config.endpoint`,
      ),
    );
    outgoing.end(body);
  });
}

const codeOf = (error: NodeJS.ErrnoException): string =>
  /^[A-Z0-9_]{1,60}$/.test(error.code ?? "") ? (error.code ?? "") : error.name;

/** The headers of the request, signed (AWS Signature Version 4 by the SDK's own signer, which is loaded only here). */
async function signedHeaders(request: SignedRequest): Promise<Record<string, string>> {
  const { service, region, credentials, url, method, body } = request;
  const { SignatureV4 } = await import("@smithy/signature-v4");
  const signer = new SignatureV4({
    service,
    region,
    credentials,
    sha256: Sha256,
    // S3 signs the path as it is sent; SSM's path, /, has nothing to escape.
    uriEscapePath: false,
    applyChecksum: true,
  });
  const { headers } = await signer.sign(
    {
      method,
      protocol: url.protocol,
      hostname: url.hostname,
      path: url.pathname,
      headers: {
        host: url.host,
        "accept-encoding": "identity",
        ...(body === undefined ? {} : { "content-length": String(Buffer.byteLength(body)) }),
        ...request.headers,
      },
      ...(body === undefined ? {} : { body }),
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
