import { describe, expect, test } from "bun:test";
import type { RequestEvent } from "../../src/imds/request-event.ts";
import type { SessionEvent } from "../../src/sessions/events.ts";
import type { Fields, Log } from "../../src/telemetry/log.ts";
import type { Metrics } from "../../src/telemetry/metrics.ts";
import { eventSinks } from "../../src/wiring/events.ts";
import { aRequest } from "../sessions/support.ts";
import { ownerOf } from "../support/callers.ts";
import { anAudit, granted, type Line, refused } from "../telemetry/audit-support.ts";

/** Sinks, the lines that they write, and the calls that the metrics get. */
function sinks() {
  const { audit, lines } = anAudit();
  const at =
    (level: string) =>
    (message: string, fields: Fields = {}) =>
      void lines.push({ level, message, fields });
  const log: Log = { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
  const events = eventSinks(log, audit);
  const counted: string[] = [];
  events.attach(
    new Proxy({} as Metrics, {
      get:
        (_, name) =>
        (...values: unknown[]) =>
          void counted.push(values.length === 0 ? String(name) : `${String(name)} 1`),
    }),
  );
  /** Those that are not for debugging. */
  const told = () => lines.filter(({ level }) => level !== "debug");
  return { events, lines, told, counted };
}

describe("an event is in the log, with", () => {
  const REQUESTS: [name: string, event: RequestEvent, line: Partial<Line> | null][] = [
    [
      "a rule's refusal: who, what and why",
      refused({}),
      {
        level: "info",
        message: "refused",
        fields: { uid: 2001, status: 404, reason: 'rule "guests" gives no role', count: 1 },
      },
    ],
    [
      "what cannot be had for now: as a warning",
      refused({ status: 503, refusal: "unavailable", why: "away" }),
      { level: "warn", message: "refused" },
    ],
    [
      "nobody known: no subject",
      refused({ subject: null, caller: { kind: "unknown" }, status: 403, refusal: "identity", why: "no" }),
      { level: "info", message: "refused" },
    ],
    ["an answer: nothing", refused({ status: 200, refusal: null, why: undefined }), null],
    [
      "a token that is missing or over",
      refused({ status: 401, refusal: "token", why: "no token" }),
      { level: "info", message: "refused" },
    ],
    ["credentials: who got whose", granted(), { level: "info", message: "granted" }],
  ];
  for (const [name, event, line] of REQUESTS) {
    test(name, () => {
      const { events, told, counted } = sinks();
      events.request(event);
      expect(told()).toMatchObject(line === null ? [] : [line]);
      expect(counted).toEqual(["request 1"]);
    });
  }

  test("a connection or request that is turned away: which of the three it is", () => {
    const { events, told } = sinks();
    for (const kind of ["busy", "malformed", "crowded"] as const)
      events.turnedAway({ kind, caller: ownerOf(2001), status: null });
    expect(told().map(({ level, message }) => [level, message])).toEqual(
      Array(3).fill(["warn", "turned away"]),
    );
    expect(new Set(told().map(({ fields }) => fields["reason"])).size).toBe(3);
  });

  test("an accept that failed: its code, and what to do about EMFILE", () => {
    const { events, told } = sinks();
    events.acceptFailure("EMFILE");
    events.acceptFailure("ENFILE");
    expect(told().map(({ level, fields }) => [level, fields["why"], fields["remedy"]])).toEqual([
      ["error", "EMFILE", "raise LimitNOFILE= of the service"],
      ["error", "ENFILE", undefined],
    ]);
  });

  test("a session: by its access key id, and no secret", () => {
    const { events, told } = sinks();
    const base = { request: aRequest({ externalId: "external-4711", policy: "policy-4711" }), tookMs: 3 };
    const all = [
      { ...base, type: "obtained", reason: "first", accessKeyId: "ASIA1", expiresAtMs: Date.UTC(2030, 0, 1) },
      { ...base, type: "postponed", owner: 2001, againInMs: 1.2 },
      { ...base, type: "denied", code: "AccessDenied", detail: "by a policy", againInMs: 60_000 },
      { ...base, type: "failed", code: "Throttling", detail: "later", againInMs: 500.4 },
      { ...base, type: "dropped", reason: "idle" },
    ] as unknown as SessionEvent[];
    for (const event of all) events.session(event);
    expect(told().map(({ level, message }) => `${level}: ${message}`)).toEqual([
      "info: session",
      "warn: too many new sessions: a call of STS has to wait",
      "warn: AssumeRole was denied",
      "warn: AssumeRole failed for now",
    ]);
    expect(told()[0]?.fields).toMatchObject({ accessKeyId: "ASIA1", expires: "2030-01-01T00:00:00.000Z" });
    expect(told()[1]?.fields).toMatchObject({ retryInMs: 2 });
    expect(told()[3]?.fields).toMatchObject({ retryInMs: 500 });
    expect(JSON.stringify(told())).not.toContain("4711");
  });
});

describe("what users cause again and again", () => {
  test("is one line for each user and kind, and every time in the metrics", () => {
    const { events, told, counted } = sinks();
    for (let time = 0; time < 1_000; time++) {
      for (const subject of [2001, 2002]) {
        const caller = ownerOf(subject);
        events.request(refused({ subject, caller }));
        events.request(refused({ subject, caller, refusal: "role", why: "another's" }));
        events.turnedAway({ kind: "busy", caller, status: 503 });
      }
      events.unidentified("the socket is gone");
      events.names({ outcome: "kept", uid: 2001, why: "sss (unavailable)" });
      events.acceptFailure("EMFILE");
    }
    expect(told()).toHaveLength(2 * 3 + 3);
    expect(counted).toHaveLength(9_000);
  });

  test("before the metrics are there, it is in the log alone", () => {
    const { audit, lines } = anAudit();
    const write = (message: string) => void lines.push({ level: "", message, fields: {} });
    const events = eventSinks({ debug: () => {}, info: write, warn: write, error: write }, audit);
    events.request(refused({}));
    events.unidentified("the socket is gone");
    expect(lines.map(({ message }) => message)).toEqual(["refused", "a caller could not be identified"]);
  });

  test("the line for debugging has nothing of the identity, the rules or the session", () => {
    const { events, lines } = sinks();
    events.request(granted());
    expect(Object.keys(lines.find(({ level }) => level === "debug")?.fields ?? {}).sort()).toEqual([
      "method",
      "refusal",
      "route",
      "status",
      "subject",
      "why",
    ]);
  });
});
