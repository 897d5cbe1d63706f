import { createHash } from "node:crypto";
import { type Answer, errorPage, text } from "../http/answer.ts";
import { parseRoleArn } from "../sessions/arn.ts";
import type { SessionOutcome } from "../sessions/types.ts";

/** `YYYY-MM-DDTHH:MM:SSZ`: botocore reads no fractions of a second (botocore/credentials.py). */
const isoSeconds = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19)}Z`;

/**
 * The document of `…/security-credentials/NAME`, with exactly the fields and the layout of the real one: s3fs-fuse finds
 * them by searching for their names (s3fs-fuse, curl.cpp), so there is no field besides.
 */
export function credentialsDocument(outcome: SessionOutcome): Answer {
  switch (outcome.kind) {
    case "session":
      return {
        ...text(
          JSON.stringify(
            {
              Code: "Success",
              LastUpdated: isoSeconds(outcome.session.obtainedAtMs),
              Type: "AWS-HMAC",
              AccessKeyId: outcome.session.accessKeyId,
              SecretAccessKey: outcome.session.secretAccessKey,
              Token: outcome.session.sessionToken,
              Expiration: isoSeconds(outcome.publishedExpiryMs),
            },
            null,
            2,
          ),
        ),
        lastModifiedMs: outcome.session.obtainedAtMs,
      };
    case "denied":
      // The code that the real service gives when its own AssumeRole is refused; SDKs report it and stop asking.
      return text(
        JSON.stringify({ Code: "AssumeRoleUnauthorizedAccess", Message: outcome.message }, null, 2),
      );
    case "unavailable":
      return outcome.retryAfterMs === undefined
        ? errorPage(503)
        : { ...errorPage(503), retryAfterSeconds: Math.max(1, Math.ceil(outcome.retryAfterMs / 1000)) };
  }
}

/**
 * The document of `…/iam/info` for a substitute role. The real one names the instance profile, which is not the caller's
 * to know; the CRT wants the three fields to be there, so they are derived from the role.
 */
export function infoDocument(roleArn: string, lastUpdatedMs: number): Answer {
  const role = parseRoleArn(roleArn);
  if (role === null) return errorPage(404);
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const id = [...createHash("sha256").update(roleArn).digest()].map((byte) => letters[byte & 31]).join("");
  return text(
    JSON.stringify(
      {
        Code: "Success",
        LastUpdated: isoSeconds(lastUpdatedMs),
        InstanceProfileArn: `arn:${role.partition}:iam::${role.account}:instance-profile/${role.name}`,
        InstanceProfileId: `AIPA${id.slice(0, 17)}`,
      },
      null,
      2,
    ),
  );
}
