import type { SocketOwner } from "../../src/identity/lookup.ts";
import { type Identity, UNKNOWN_IDENTITY } from "../../src/identity/types.ts";
import type { RequestEvent } from "../../src/imds/request-event.ts";
import type { Decision } from "../../src/rules/decide.ts";
import { Audit, type AuditOptions } from "../../src/telemetry/audit.ts";
import type { Fields } from "../../src/telemetry/log.ts";
import { aRequest } from "../sessions/support.ts";
import { ownerOf } from "../support/callers.ts";
import { FakeClock } from "../support/fake-clock.ts";

/** A line as it was given to the log. */
export interface Line {
  readonly level: string;
  readonly message: string;
  readonly fields: Fields;
}

/** An audit with a clock to turn, and its lines. */
export function anAudit(over: Partial<AuditOptions> = {}) {
  const clock = new FakeClock();
  const startMs = clock.now();
  const lines: Line[] = [];
  const audit = new Audit({
    log: {
      record: (level, message, fields) => void lines.push({ level, message, fields }),
      line: (level, message, fields) => JSON.stringify({ level, message, ...fields }),
    },
    journal: null,
    identify: null,
    clock,
    monotonicMs: () => clock.now() - startMs,
    ...over,
  });
  return { audit, lines, clock };
}

export const identityOf = (over: Partial<Identity> = {}): Identity => ({
  ...UNKNOWN_IDENTITY,
  uid: 2001,
  user: "alice",
  groups: ["alice", "data-eng", "docker"],
  cgroup: "/user.slice/user-2001.slice/session-3.scope",
  ...over,
});

export const roleDecision = (over: Partial<Decision & { kind: "role" }> = {}): Decision => ({
  kind: "role",
  roleArn: "arn:aws:iam::842413447717:role/ImdsProxyTestRole",
  rule: "data engineers",
  reason: 'rule "data engineers" matched',
  request: aRequest(),
  ...over,
});

/** A request of alice's that was answered with her session's credentials. */
export const granted = (over: Partial<RequestEvent> = {}): RequestEvent => ({
  subject: 2001,
  caller: ownerOf(2001),
  method: "GET",
  imdsVersion: 2,
  tookMs: 1.23456,
  decided: { identity: identityOf(), decision: roleDecision(), namedGroups: new Set(["data-eng"]) },
  accessKeyId: "ASIA1",
  failure: null,
  route: "role-credentials",
  status: 200,
  refusal: null,
  ...over,
});

/** A request of alice's that a rule refused. */
export const refused = (over: Partial<RequestEvent> = {}): RequestEvent => ({
  ...granted(),
  accessKeyId: null,
  decided: null,
  route: "role-list",
  status: 404,
  refusal: "rule",
  why: 'rule "guests" gives no role',
  ...over,
});

/** Tells a name and a cgroup when the test says so. */
export function lateNames() {
  const asked: { owner: SocketOwner; tell: (identity: Identity) => void; fail: () => void }[] = [];
  const identify = (owner: SocketOwner): Promise<Identity> => {
    const { promise, resolve, reject } = Promise.withResolvers<Identity>();
    asked.push({ owner, tell: resolve, fail: () => reject(new Error("away")) });
    return promise;
  };
  return { asked, identify };
}
