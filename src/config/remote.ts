import { z } from "zod";
import { FLEET_NAME, publicKeyOf } from "./object.ts";

/** The shape of `config`: where the fleet's object is, and whose signature it must have. */

const PATTERN = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])\/(.+)$/;

/** Where the object is. */
export type Source = S3Location | SsmLocation;

/** A bucket and a key of S3. */
export interface S3Location {
  readonly bucket: string;
  readonly key: string;
}

/** Parses `s3://BUCKET/KEY`; null where it is none. The key is printable ASCII, without segments that a URL parser removes. */
export function parseS3Url(text: string): S3Location | null {
  const [, bucket = "", key = ""] = PATTERN.exec(text) ?? [];
  if (bucket === "" || /\.\.|^\d+\.\d+\.\d+\.\d+$/.test(bucket)) return null;
  const isPlain = key.length <= 1024 && /^[\x20-\x7e]+$/.test(key) && !/[\\]/.test(key);
  const hasRemoved = key.split("/").some((segment) => segment === "" || segment === "." || segment === "..");
  return isPlain && !hasRemoved ? { bucket, key } : null;
}

/** A parameter of the Systems Manager's Parameter Store. */
export interface SsmLocation {
  /** Its name, or its ARN: what the API takes as `Name`. */
  readonly parameter: string;
  /** The region in its ARN; null where it is named. */
  readonly region: string | null;
}

/**
 * A name: letters, digits, `.`, `-`, `_`, and with levels a `/` before each (AWS Systems Manager API Reference, "PutParameter"). No
 * `NAME:VERSION` nor `NAME:LABEL`.
 */
const PARAMETER = /^(?:[A-Za-z0-9._-]+|(?:\/[A-Za-z0-9._-]+){1,15})$/;
const PARAMETER_ARN =
  /^arn:aws[a-z-]*:ssm:([a-z]{2,}(?:-[a-z]+)+-\d{1,2}):\d{12}:parameter\/([A-Za-z0-9._/-]+)$/;
/** With its ARN, as AWS counts it. */
const MOST_PARAMETER = 1011;

/** Parses `ssm:NAME` or `ssm:ARN`; null where it is none. */
export function parseSsm(text: string): SsmLocation | null {
  if (!text.startsWith("ssm:") || text.length > MOST_PARAMETER) return null;
  const parameter = text.slice("ssm:".length);
  const [, region = null, name = ""] = PARAMETER_ARN.exec(parameter) ?? [];
  if (region !== null)
    return PARAMETER.test(name) || PARAMETER.test(`/${name}`) ? { parameter, region } : null;
  return PARAMETER.test(parameter) ? { parameter, region } : null;
}

/** Whether the text names a {@link Source}, right or wrong, and not a file: `./ssm:x` is a file. */
export const namesSource = (text: string): boolean => /^(?:s3:\/\/|ssm:)/.test(text);

export const parseSource = (text: string): Source | null => parseS3Url(text) ?? parseSsm(text);

/** As {@link parseSource} takes it. */
export const sourceText = (source: Source): string =>
  "bucket" in source ? `s3://${source.bucket}/${source.key}` : `ssm:${source.parameter}`;

const source = z.string().transform((text, context) => {
  const parsed = parseSource(text);
  if (parsed !== null) return parsed;
  context.addIssue({
    code: "custom",
    message:
      "must be an object of S3, such as s3://BUCKET/imdsproxy.yaml, or a parameter of SSM, such as ssm:/imdsproxy/rules",
  });
  return z.NEVER;
});

const UNITS = { s: 1, m: 60, h: 3600 } as const;
const EVERY = "must be a time of 10s to 24h, such as 60s or 5m";

/** `60s`, `5m`, `1h`, to whole seconds. */
const every = z.string(EVERY).transform((text, context) => {
  const [, count, unit] = /^(\d{1,5})([smh])$/.exec(text) ?? [];
  const seconds = Number(count) * UNITS[(unit ?? "s") as keyof typeof UNITS];
  if (seconds >= 10 && seconds <= 86_400) return seconds;
  context.addIssue({ code: "custom", message: EVERY });
  return z.NEVER;
});

const publicKey = z.string().transform((text, context) => {
  const key = publicKeyOf(text);
  if (key !== null) return key;
  context.addIssue({
    code: "custom",
    message:
      "must be an Ed25519 public key: what openssl pkey -in KEY.pem -pubout prints, or the line between BEGIN and END",
  });
  return z.NEVER;
});

export const remoteSchema = z.strictObject({
  source: source.describe("The object, as s3://BUCKET/KEY, or a parameter of SSM, as ssm:NAME or ssm:ARN"),
  // In seconds once it is parsed.
  every: every.prefault("60s").describe("The interval between two polls, from 10s to 24h"),
  publicKey: z
    .union([
      z.array(publicKey).min(1, "must name a key").max(8, "must be at most 8 keys"),
      publicKey.transform((one) => [one]),
    ])
    .describe(
      "The Ed25519 public key that must have signed the object; two, while one key replaces the other",
    ),
  fleet: z
    .string()
    .regex(FLEET_NAME, "must be 1 to 64 letters, digits, dots, underscores or hyphens, such as research")
    .describe("The name that the object must be signed for"),
  region: z
    .string()
    .regex(/^[a-z]{2,}(?:-[a-z]+)+-\d{1,2}$/, "must be a region such as us-west-2")
    .nullish()
    .describe("The region of the bucket or the parameter; default that of its ARN, else the node's"),
  endpoint: z
    .url({
      protocol: /^https?$/,
      error: "must be a URL such as https://s3.us-west-2.amazonaws.com, or null",
    })
    .nullish()
    .describe("The URL where S3 or SSM answers; default the endpoint of the region"),
});

/** `config`, complete. */
export type Remote = z.output<typeof remoteSchema>;
