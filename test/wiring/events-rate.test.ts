import { expect, test } from "bun:test";
import { eventSinks } from "../../src/wiring/events.ts";
import { anAudit } from "../telemetry/audit-support.ts";

// What users cause by requests is limited by user: test/telemetry/audit.test.ts.
test("what users cause does not fill the log: callers that nobody can name, and denials by STS", () => {
  const lines: string[] = [];
  const write = (message: string) => void lines.push(message);
  const log = { debug: () => {}, info: write, warn: write, error: write };
  const events = eventSinks(log, anAudit().audit, () => 0);
  const request = { roleArn: "arn:aws:iam::123456789012:role/R", sessionName: "s" };
  for (let i = 0; i < 1_000; i++) {
    events.unidentified("no such socket");
    events.acceptFailure("EMFILE");
    events.session({ type: "denied", request, code: "AccessDenied", detail: "", againInMs: 0 } as never);
  }
  expect(lines).toEqual([
    "a caller could not be identified",
    "connections cannot be accepted for now",
    "AssumeRole was denied",
  ]);
});
