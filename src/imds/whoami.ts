import type { Answer } from "../http/answer.ts";
import type { Identity } from "../identity/types.ts";
import type { Decision } from "../rules/decide.ts";
import { parseRoleArn } from "../sessions/arn.ts";
import type { SessionBroker } from "../sessions/broker.ts";
import type { OwnFailure } from "./own-failure.ts";

/** What `imdsproxy whoami` shows: the caller's identity as the proxy sees it, and the decision. Holds no secret. */
export interface Whoami {
  readonly user: string | null;
  /** Null for a container. */
  readonly uid: number | null;
  /** The container's address, or null. */
  readonly container: string | null;
  /** True for a uid of the user's range in /etc/subuid. */
  readonly subordinate: boolean;
  readonly groups: readonly string[];
  readonly slurmJobId: string | null;
  /** The rule that matched, or null: the default role, or nothing. */
  readonly rule: string | null;
  readonly reason: string;
  /** ARN of the role, or null where the caller is refused. */
  readonly role: string | null;
  readonly roleName: string | null;
  readonly sessionName: string | null;
  /** Of a rule with `grant: union`, the names of the grants that match: none, where everything is denied. Version 0.2 has it not. */
  readonly grants?: readonly string[] | null;
  /** ARNs of the managed policies that narrow the session. Version 0.2 has it not. */
  readonly policyArns?: readonly string[];
  /** ISO 8601; null where there is no session yet. */
  readonly sessionEnds: string | null;
  /** Why the last request to STS failed; null where it did not. */
  readonly lastError: OwnFailure | null;
}

/** The answer to `/imdsproxy/whoami`. */
export function whoamiDocument(
  identity: Identity,
  decision: Decision,
  broker: Pick<SessionBroker, "peek">,
  lastError: OwnFailure | null,
): Answer {
  const role = decision.kind === "role" ? decision : null;
  const endsMs = role === null ? null : broker.peek(role.request);
  const body: Whoami = {
    user: identity.user,
    uid: identity.uid,
    container: identity.container,
    subordinate: identity.subordinate,
    groups: identity.groups,
    slurmJobId: identity.slurmJobId,
    rule: decision.rule,
    reason: decision.reason,
    role: role?.roleArn ?? null,
    roleName: role === null ? null : (parseRoleArn(role.roleArn)?.name ?? null),
    sessionName: role?.request.sessionName ?? null,
    grants: role?.grants ?? null,
    policyArns: role?.request.policyArns ?? [],
    sessionEnds: endsMs === null ? null : new Date(endsMs).toISOString(),
    lastError,
  };
  return jsonAnswer(body);
}

/** A document of our own as an answer. */
export function jsonAnswer(body: object): Answer {
  // Names may have any characters, but the bytes of an answer are Latin-1.
  const json = JSON.stringify(body).replaceAll(
    /[\u0080-\uffff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return { status: 200, contentType: "application/json", body: json };
}
