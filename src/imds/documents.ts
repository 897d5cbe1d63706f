import { createHash } from "node:crypto";
import { type Answer, errorPage, repeated, text } from "../http/answer.ts";
import { parseRoleArn } from "../sessions/arn.ts";
import type { Session, SessionOutcome } from "../sessions/types.ts";

/** `YYYY-MM-DDTHH:MM:SSZ`: botocore reads no fractions of a second (botocore/credentials.py). */
const isoSeconds = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19)}Z`;

/**
 * The documents of the sessions that were asked for last. An entry goes with its session at the latest: the broker decides how long
 * secrets stay in memory. Not those of all sessions, since a document takes as much memory as the rest of its session.
 */
let documents = new WeakMap<Session, { readonly publishedExpiryMs: number; readonly answer: Answer }>();
/** How many were made since there were none, and how many may be: as many as there are answers in bytes (http/encoded-answers.ts). */
let documentsMade = 0;
const MAX_DOCUMENTS = 512;

/** The answer to `…/security-credentials/NAME`. */
export function credentialsDocument(outcome: SessionOutcome): Answer {
  switch (outcome.kind) {
    case "session": {
      const { session, publishedExpiryMs } = outcome;
      // Made once for each session: a request for credentials costs a tenth less CPU time with it.
      let made = documents.get(session);
      if (made?.publishedExpiryMs !== publishedExpiryMs) {
        if (++documentsMade > MAX_DOCUMENTS) {
          documents = new WeakMap();
          documentsMade = 1;
        }
        made = { publishedExpiryMs, answer: repeated(sessionDocument(session, publishedExpiryMs)) };
        documents.set(session, made);
      }
      return made.answer;
    }
    case "denied":
      // The code that the real service gives when its own AssumeRole is refused. SDKs report it and stop asking.
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
 * A session's credentials, with exactly the fields and the layout of the real document: s3fs-fuse finds the fields by
 * searching for their names (s3fs-fuse, curl.cpp), so there must be no other.
 */
function sessionDocument(session: Session, publishedExpiryMs: number): Answer {
  const document = {
    Code: "Success",
    LastUpdated: isoSeconds(session.obtainedAtMs),
    Type: "AWS-HMAC",
    AccessKeyId: session.accessKeyId,
    SecretAccessKey: session.secretAccessKey,
    Token: session.sessionToken,
    Expiration: isoSeconds(publishedExpiryMs),
  };
  return { ...text(JSON.stringify(document, null, 2)), lastModifiedMs: session.obtainedAtMs };
}

/**
 * The document of `…/iam/info` for a substitute role. The real one names the instance profile, which the caller must not
 * learn. The AWS Common Runtime requires its three fields, so they are derived from the role.
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
