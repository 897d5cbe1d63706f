import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { isSignedWith, parseAuthorization } from "../../../src/demo/sts/signature.ts";

/** What S3 is asked to do wrong; `null`: nothing. */
export type S3Fault =
  | null
  /** Closes the connection. */
  | "gone"
  /** Never answers. */
  | "hangs"
  /** Announces the whole object, and sends a part of it. */
  | "cut"
  /** Says that it has not changed, whatever it has. */
  | "lies-unchanged"
  /** Sends without a length, and without an end. */
  | "endless"
  | { readonly status: number; readonly code?: string; readonly headers?: Record<string, string> };

/** One request that reached it. */
export interface S3LogEntry {
  readonly target: string;
  readonly ifNoneMatch: string | null;
  /** Whether the signature is the right one, over the headers that must be signed. */
  readonly signed: boolean;
  readonly headers: Readonly<Record<string, string>>;
}

/** A stand-in for S3 with one object at `/bucket/rules.yaml`, which checks each signature (GetObject, with If-None-Match). */
export interface S3StandIn {
  readonly endpoint: string;
  object: string | Uint8Array | null;
  etag: string;
  fault: S3Fault;
  readonly log: S3LogEntry[];
  stop(): Promise<void>;
}

export const S3_KEYS = {
  accessKeyId: "ASIAEXAMPLE",
  secretAccessKey: "wJalr/EXAMPLE",
  sessionToken: "token+/=",
};

const xml = (code: string) =>
  `<?xml version="1.0"?>\n<Error><Code>${code}</Code><Message>m</Message></Error>`;

export async function startS3(port = 0): Promise<S3StandIn> {
  const server = createServer((request, response) => answer(request, response));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  const standIn: S3StandIn = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    object: null,
    etag: '"1"',
    fault: null,
    log: [],
    async stop() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };

  function answer(request: IncomingMessage, response: ServerResponse): void {
    const headers = Object.fromEntries(
      Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
    );
    const claim = parseAuthorization(headers["authorization"]);
    const must = ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"];
    const signed =
      claim !== null &&
      claim.service === "s3" &&
      must.every((name) => claim.signedHeaders.includes(name)) &&
      headers["x-amz-security-token"] === S3_KEYS.sessionToken &&
      isSignedWith(S3_KEYS.secretAccessKey, claim, {
        method: request.method ?? "",
        target: request.url ?? "",
        headers,
        body: new Uint8Array(),
      });
    standIn.log.push({
      target: request.url ?? "",
      ifNoneMatch: headers["if-none-match"] ?? null,
      signed,
      headers,
    });
    const { fault, object, etag } = standIn;
    const bytes = object === null ? null : Buffer.from(object);
    if (fault === "gone") return void request.socket.destroy();
    if (fault === "hangs") return;
    if (fault === "lies-unchanged") return void response.writeHead(304, { ETag: etag }).end();
    if (fault === "cut" && bytes !== null) {
      response.writeHead(200, { ETag: etag, "Content-Length": String(bytes.length) });
      response.write(bytes.subarray(0, bytes.length >> 1), () => request.socket.destroy());
      return;
    }
    if (fault === "endless") {
      response.writeHead(200, { ETag: etag });
      const more = () => void (response.destroyed || response.write(Buffer.alloc(65_536, "x"), more));
      more();
      return;
    }
    if (fault !== null && typeof fault === "object") {
      response.writeHead(fault.status, { "Content-Type": "application/xml", ...fault.headers });
      return void response.end(xml(fault.code ?? "Code"));
    }
    if (!signed) return void response.writeHead(403).end(xml("SignatureDoesNotMatch"));
    if (bytes === null) return void response.writeHead(404).end(xml("NoSuchKey"));
    if (headers["if-none-match"] === etag) return void response.writeHead(304, { ETag: etag }).end();
    response.writeHead(200, { ETag: etag, "Content-Length": String(bytes.length) });
    response.end(bytes);
  }
  return standIn;
}
