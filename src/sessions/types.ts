/** One complete AssumeRole request, which is the key of its session. */
export interface SessionRequest {
  /** ARN of the role to assume: `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`. */
  readonly roleArn: string;
  /** RoleSessionName, 2 to 64 characters of `[\w+=,.@-]`. */
  readonly sessionName: string;
  /** DurationSeconds, 900 to 3600: AWS caps a role that was assumed from a role at an hour. */
  readonly durationSeconds: number;
  readonly sourceIdentity: string | null;
  /** Session tags, sorted by key so that equal sets are equal requests. */
  readonly tags: readonly (readonly [key: string, value: string])[];
  readonly transitiveTagKeys: readonly string[];
  readonly policyArns: readonly string[];
  /** Inline session policy as JSON text. */
  readonly policy: string | null;
  readonly externalId: string | null;
}

/** One set of credentials from one AssumeRole request. Times are milliseconds since the epoch. */
export interface Session {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string;
  /** When STS says that the session ends. */
  readonly expiresAtMs: number;
  readonly obtainedAtMs: number;
}

/** What the broker has for a caller. */
export type SessionOutcome =
  | {
      readonly kind: "session";
      readonly session: Session;
      /** The end that clients are given: 60 s before the real one, so that none uses a session in its last moment. */
      readonly publishedExpiryMs: number;
    }
  /** STS refused (trust policy, permission, malformed request). The denial is remembered for a minute. */
  | { readonly kind: "denied"; readonly message: string }
  /** STS does not answer, and no valid session is in memory. */
  | {
      readonly kind: "unavailable";
      readonly message: string;
      /** Milliseconds until asking again can help; absent where that is not known. */
      readonly retryAfterMs?: number;
    };
