import { isSignedWith, parseAuthorization } from "../../../src/demo/sts/signature.ts";
import { S3_KEYS } from "./s3.ts";

/** What SSM is asked to do wrong; null: nothing. */
export type SsmFault =
  | null
  /** Never answers. */
  | "hangs"
  /** Sends without an end. */
  | "endless"
  /** The whole answer. */
  | { readonly status: number; readonly body: string; readonly headers?: Record<string, string> };

/** A stand-in for SSM with one parameter, which checks each signature (GetParameter). */
export interface SsmStandIn {
  readonly endpoint: string;
  /** Null: there is none. */
  value: string | null;
  fault: SsmFault;
  /** Each request: its body, and the headers. */
  readonly log: { readonly body: unknown; readonly headers: Headers }[];
  stop(): Promise<void>;
}

export function startSsm(name: string): SsmStandIn {
  const error = (code: string, status = 400) =>
    Response.json({ __type: code, message: "said by SSM" }, { status });
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const body = await request.bytes();
      const claim = parseAuthorization(request.headers.get("authorization") ?? undefined);
      const signed =
        claim !== null &&
        claim.service === "ssm" &&
        ["host", "x-amz-date", "x-amz-security-token", "x-amz-target"].every((one) =>
          claim.signedHeaders.includes(one),
        ) &&
        request.headers.get("x-amz-security-token") === S3_KEYS.sessionToken &&
        isSignedWith(S3_KEYS.secretAccessKey, claim, {
          method: request.method,
          target: new URL(request.url).pathname,
          headers: Object.fromEntries(request.headers),
          body,
        });
      const asked = JSON.parse(Buffer.from(body).toString());
      standIn.log.push({ body: asked, headers: request.headers });
      const { fault, value } = standIn;
      if (fault === "hangs") return new Promise<Response>(() => {});
      if (fault === "endless")
        return new Response(
          new ReadableStream({
            pull: (controller) => controller.enqueue(Buffer.alloc(16_384, "x")),
          }),
        );
      if (fault !== null) return new Response(fault.body, fault);
      if (!signed) return error("InvalidSignatureException");
      const isAsked = request.method === "POST" && new URL(request.url).pathname === "/";
      if (!isAsked || request.headers.get("x-amz-target") !== "AmazonSSM.GetParameter")
        return error("UnknownOperationException");
      if (asked.WithDecryption !== true) return error("ValidationException");
      if (value === null || asked.Name !== name) return error("ParameterNotFound");
      return Response.json({ Parameter: { Name: name, Type: "SecureString", Value: value, Version: 1 } });
    },
  });
  const standIn: SsmStandIn = {
    endpoint: `http://127.0.0.1:${server.port}`,
    value: null,
    fault: null,
    log: [],
    stop: () => server.stop(true),
  };
  return standIn;
}
