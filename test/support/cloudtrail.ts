import type { StsLogEntry } from "../../src/demo/sts/server.ts";

/**
 * Events of CloudTrail, made from what the stand-in for STS was asked. Their form is that of AWS's own (CloudTrail User Guide,
 * "CloudTrail record contents", "CloudTrail userIdentity element", and the examples of STS in IAM's "Logging with CloudTrail").
 */

const REGION = "us-west-2";

/** The session that the key of an event belongs to, as the event of its AssumeRole says. */
type Sessions = ReadonlyMap<string, StsLogEntry>;

/** The tags of a request, from its form: Tags.member.N.Key. */
function tagsOf(parameters: StsLogEntry["parameters"]): { key: string; value: string }[] {
  return Object.keys(parameters)
    .filter((name) => /^Tags\.member\.\d+\.Key$/.test(name))
    .map((name) => ({
      key: parameters[name] ?? "",
      value: parameters[name.replace(/Key$/, "Value")] ?? "",
    }));
}

function userIdentity(entry: StsLogEntry, sessions: Sessions): object {
  const arn = entry.principalArn ?? "";
  const [, , , , accountId = "", resource = ""] = arn.split(":");
  const [, role = "", session = ""] = resource.split("/");
  const assumed = sessions.get(entry.accessKeyId ?? "");
  const source = assumed?.parameters["SourceIdentity"];
  return {
    type: "AssumedRole",
    principalId: `AROAEXAMPLE:${session}`,
    arn,
    accountId,
    accessKeyId: entry.accessKeyId,
    sessionContext: {
      sessionIssuer: {
        type: "Role",
        principalId: "AROAEXAMPLE",
        arn: `arn:aws:iam::${accountId}:role/${role}`,
        accountId,
        userName: role,
      },
      attributes: {
        creationDate: new Date(assumed?.atMs ?? entry.atMs).toISOString(),
        mfaAuthenticated: "false",
      },
      ...(source === undefined ? {} : { sourceIdentity: source }),
    },
  };
}

/** One event for each request that was answered, in their order. */
export function cloudTrailEvents(log: readonly StsLogEntry[]) {
  const sessions = new Map<string, StsLogEntry>();
  for (const entry of log) if (entry.issuedKeyId !== null) sessions.set(entry.issuedKeyId, entry);
  return log
    .filter(({ principalArn, status }) => principalArn !== null && status !== null)
    .map((entry, index) => {
      const { parameters, action, issuedKeyId, code } = entry;
      const source = parameters["SourceIdentity"];
      const tags = tagsOf(parameters);
      return {
        eventVersion: "1.09",
        userIdentity: userIdentity(entry, sessions),
        eventTime: `${new Date(entry.atMs).toISOString().slice(0, 19)}Z`,
        eventSource: "sts.amazonaws.com",
        eventName: action,
        awsRegion: REGION,
        sourceIPAddress: "10.0.0.2",
        userAgent: entry.userAgent,
        errorCode: code,
        requestParameters:
          action === "AssumeRole"
            ? {
                roleArn: parameters["RoleArn"],
                roleSessionName: parameters["RoleSessionName"],
                durationSeconds: Number(parameters["DurationSeconds"]),
                ...(source === undefined ? {} : { sourceIdentity: source }),
                ...(tags.length === 0 ? {} : { tags }),
              }
            : null,
        responseElements:
          issuedKeyId === null
            ? null
            : {
                credentials: { accessKeyId: issuedKeyId, sessionToken: "HIDDEN", expiration: "" },
                assumedRoleUser: { assumedRoleId: "", arn: "" },
                ...(source === undefined ? {} : { sourceIdentity: source }),
              },
        requestID: `request-${index}`,
        eventID: `event-${index}`,
        readOnly: true,
        eventType: "AwsApiCall",
        managementEvent: true,
        eventCategory: "Management",
      };
    });
}
export type CloudTrailEvent = ReturnType<typeof cloudTrailEvents>[number];
