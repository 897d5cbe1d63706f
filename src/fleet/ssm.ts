import { z } from "zod";
import type { SsmLocation } from "../config/remote.ts";
import {
  type Credentials,
  failed,
  type SignedAnswer,
  sendSigned,
  serviceEndpoint,
  type Unfetched,
} from "./signed-request.ts";

/**
 * A parameter of SSM's Parameter Store, by one signed POST (AWS Systems Manager API Reference, "GetParameter"; the protocol is AWS
 * JSON 1.1). It is sent whole each time: the API has no conditional request.
 */

export interface SsmRequest {
  readonly location: SsmLocation;
  readonly region: string;
  /** Where SSM answers; null: at the region's endpoint. */
  readonly endpoint: string | null;
  readonly credentials: Credentials;
  /** Milliseconds for everything. Default 20,000. */
  readonly limitMs?: number;
}

export type SsmAnswer = { readonly kind: "found"; readonly bytes: Uint8Array } | Unfetched;

/**
 * The longest answer in bytes. The value of an advanced parameter has at most 8 KiB. JSON may write each byte as six, and the answer has
 * other fields, too.
 */
const MOST_ANSWER_BYTES = 64 * 1024;

/** What is read of the answer: the value, as it was put there. */
const answerSchema = z.object({ Parameter: z.object({ Value: z.string() }) });

/** Fetches a parameter, decrypted. Nothing that the server does rejects the promise. */
export async function getParameter(request: SsmRequest): Promise<SsmAnswer> {
  const { location, region, credentials, limitMs } = request;
  const endpoint = request.endpoint ?? (await serviceEndpoint("ssm", region));
  const answer = await sendSigned({
    service: "ssm",
    region,
    credentials,
    url: new URL("/", endpoint),
    method: "POST",
    headers: { "content-type": "application/x-amz-json-1.1", "x-amz-target": "AmazonSSM.GetParameter" },
    body: JSON.stringify({ Name: location.parameter, WithDecryption: true }),
    mostBytes: MOST_ANSWER_BYTES,
    limitMs,
  });
  if (answer.kind === "failed") return answer;
  const host = new URL(endpoint).host;
  if (answer.kind === "too-long")
    return failed(
      `${host} sent more than ${MOST_ANSWER_BYTES} bytes, and a parameter has at most 8 KiB`,
      "see what answers there",
    );
  if (answer.status !== 200) return failureOf(answer, request);
  const value = valueIn(answer.bytes);
  if (value !== null) return { kind: "found", bytes: Buffer.from(value) };
  return failed(
    `${host} sent something that is no parameter`,
    "see that config.endpoint is where SSM answers",
  );
}

function valueIn(bytes: Uint8Array): string | null {
  try {
    return answerSchema.parse(JSON.parse(Buffer.from(bytes).toString())).Parameter.Value;
  } catch {
    return null;
  }
}

/** The error's code: `__type`, which may have a namespace before `#` (Smithy, "AWS JSON 1.1 protocol", operation errors). */
function codeIn(bytes: Uint8Array): string | null {
  try {
    const { __type } = z.object({ __type: z.string() }).parse(JSON.parse(Buffer.from(bytes).toString()));
    return /^(?:[\w.]{1,100}#)?([A-Za-z]{1,60})$/.exec(__type)?.[1] ?? null;
  } catch {
    return null;
  }
}

/** Explains an answer without the parameter. Pure. */
function failureOf(
  { status, bytes }: Extract<SignedAnswer, { kind: "answered" }>,
  { location: { parameter }, region }: SsmRequest,
): Unfetched {
  const code = codeIn(bytes);
  const said = code === null ? `status ${status}` : `status ${status}, ${code}`;
  switch (code) {
    case "ParameterNotFound":
    case "ParameterVersionNotFound":
      return failed(
        `there is no such parameter in ${region} (${said})`,
        `see what is there: aws ssm describe-parameters --region ${region}; set config.region where it is in another`,
      );
    case "AccessDeniedException":
    case "AccessDenied":
      return failed(
        `SSM refuses the parameter to the instance role (${said})`,
        `allow it ssm:GetParameter on ${parameter}, and kms:Decrypt where a KMS key of your own encrypts it; imdsproxy iam permissions-policy prints the statement`,
      );
    case "InvalidKeyId":
      return failed(
        `the key of KMS that encrypts the parameter cannot be used (${said})`,
        "see that it is enabled; or put the parameter there as String: it is signed, and holds no secret",
      );
    case "ThrottlingException":
      return failed(
        `SSM was asked too often in this account and region (${said})`,
        "raise config.every, or SSM's throughput: aws ssm update-service-setting; or put the object into S3",
      );
  }
  if (status === 403 || code?.endsWith("TokenException") || code?.endsWith("SignatureException")) {
    return failed(
      `SSM refuses the instance role's signature (${said})`,
      "see that the node's clock is right: chronyc tracking",
    );
  }
  if (status >= 300 && status < 400) {
    return failed(
      `SSM answered with a redirect (${said}), which is not followed`,
      "set config.endpoint to where SSM answers",
    );
  }
  return failed(`SSM gives no parameter (${said})`, "if SSM is at fault, the next poll may succeed");
}
