import { beforeEach, describe, expect, test } from "bun:test";
import type { RequestEvent } from "../../src/imds/handler.ts";
import type { Log } from "../../src/telemetry/log.ts";
import { eventSinks } from "../../src/wiring/events.ts";

let nowMs: number;
let lines: { message: string; fields: Record<string, unknown> }[];
let events: ReturnType<typeof eventSinks>;
const write: Log["info"] = (message, fields = {}) => void lines.push({ message, fields });
beforeEach(() => {
  nowMs = 0;
  lines = [];
  events = eventSinks({ debug: () => {}, info: write, warn: write, error: write }, () => nowMs);
});

const refused = (subject: number, refusal: RequestEvent["refusal"] = "request"): RequestEvent => ({
  subject,
  method: "GET",
  route: "none",
  status: 400,
  why: "the target is not one that is taken",
  refusal,
});

describe("what users cause does not fill the log:", () => {
  test("ten thousand refusals of one user are one line in ten seconds, and the next says how many there were", () => {
    for (let i = 0; i < 10_000; i++) events.request(refused(2001));
    expect(lines.map(({ fields }) => fields["count"])).toEqual([1]);
    nowMs = 10_000;
    events.request(refused(2001));
    expect(lines.map(({ fields }) => fields["count"])).toEqual([1, 10_000]);
  });
  test("another user's refusals have lines of their own", () => {
    for (const subject of [2001, 2002, 2001, 2002]) events.request(refused(subject));
    expect(lines.map(({ fields }) => fields["subject"])).toEqual([2001, 2002]);
  });
  test("a rule's refusal is written once in ten minutes: a program may ask each second for years", () => {
    for (; nowMs < 600_000; nowMs += 1_000) events.request(refused(2001, "rule"));
    expect(lines).toHaveLength(1);
    events.request(refused(2001, "rule"));
    expect(lines).toHaveLength(2);
  });
  test("ten thousand uids, as a user has in /etc/subuid, are a hundred lines and one for the rest", () => {
    for (let uid = 100_000; uid < 110_000; uid++) events.request(refused(uid));
    expect(lines).toHaveLength(101);
  });
  test("requests that were turned away, callers that nobody can name, and denials by STS alike", () => {
    const request = { roleArn: "arn:aws:iam::123456789012:role/R", sessionName: "s" };
    for (let i = 0; i < 1_000; i++) {
      events.turnedAway({ kind: "busy", subject: 2001, status: 503 });
      events.unidentified("no such socket");
      events.acceptFailure("EMFILE");
      events.session({ type: "denied", request, code: "AccessDenied", detail: "", againInMs: 0 } as never);
    }
    expect(lines.map(({ message }) => message)).toEqual([
      "turned away",
      "a caller could not be identified",
      "connections cannot be accepted for now",
      "AssumeRole was denied",
    ]);
  });
});
