import { describe, expect, test } from "bun:test";
import { problemLines } from "../../src/cli/problem-lines.ts";
import { table } from "../../src/cli/table.ts";
import { readWhoami, whoamiText } from "../../src/cli/whoami.ts";
import type { Whoami } from "../../src/imds/whoami.ts";

const NOW = Date.UTC(2030, 0, 1);
const at = (ms: number) => new Date(NOW + ms).toISOString();
const MIN = 60_000;
const ALICE: Whoami = {
  user: "alice",
  uid: 2001,
  container: null,
  subordinate: false,
  groups: ["alice", "ml"],
  slurmJobId: null,
  rule: "lake",
  reason: 'rule "lake" matched, with the grant "models"',
  role: "arn:aws:iam::842413447717:role/Lake",
  roleName: "Lake",
  sessionName: "alice",
  grants: ["models"],
  policyArns: ["arn:aws:iam::842413447717:policy/Models"],
  sessionEnds: at(43 * MIN),
  lastError: null,
};
const row = (text: string, name: string) =>
  new RegExp(`^${name} {2,}(.*)$`, "m").exec(text)?.[1] ?? "no such row";

describe("readWhoami()", () => {
  test("takes what the proxy says", () => {
    expect(readWhoami(JSON.stringify(ALICE))).toEqual(ALICE);
    const { grants: _, policyArns: __, ...earlier } = ALICE;
    expect(readWhoami(JSON.stringify(earlier))).toEqual(earlier);
    expect(
      readWhoami(JSON.stringify({ ...ALICE, role: null, roleName: null, sessionName: null })),
    ).not.toBeNull();
  });
  test("takes no other JSON for the proxy's, in which status would find nothing wrong", () => {
    for (const body of ["{}", "null", "[]", '""', "200", '{"status":"ok"}', "no JSON"])
      expect([body, readWhoami(body)]).toEqual([body, null]);
    for (const key of Object.keys(ALICE).filter(
      (one) => !["subordinate", "grants", "policyArns"].includes(one),
    ))
      expect([key, readWhoami(JSON.stringify({ ...ALICE, [key]: undefined }))]).toEqual([key, null]);
  });
});

describe("whoami says for people", () => {
  test("when the session ends, as people say it and as machines do", () => {
    expect(row(whoamiText(ALICE, NOW), "session ends")).toBe("in 43 min (2030-01-01T00:43:00.000Z)");
    expect(row(whoamiText({ ...ALICE, sessionEnds: null }, NOW), "session ends")).toContain("no session yet");
  });
  test("since when the last error is", () => {
    const lastError = { message: "STS is away", since: at(-5 * MIN), remedy: "wait" };
    expect(row(whoamiText({ ...ALICE, lastError }, NOW), "last error")).toBe(
      "STS is away (since 5 min ago: 2029-12-31T23:55:00.000Z)",
    );
  });
  test("which grants match, and their policies", () => {
    const text = whoamiText(ALICE, NOW);
    expect(row(text, "grants")).toBe("models");
    expect(row(text, "policy")).toBe("arn:aws:iam::842413447717:policy/Models");
    expect(row(whoamiText({ ...ALICE, grants: [], policyArns: [] }, NOW), "grants")).toBe(
      "none: everything is denied",
    );
  });
  test("the same of a proxy of version 0.2, which does not know grants", () => {
    const { grants: _, policyArns: __, ...old } = ALICE;
    expect(whoamiText(old, NOW)).not.toContain("grants  ");
  });
});

test("a problem says since when, as people say it and as machines do", () => {
  expect(
    problemLines({ what: "STS is away", since: at(-90 * MIN), remedy: "see\nthere" }, { nowMs: NOW }),
  ).toEqual([
    "PROBLEM STS is away",
    "  since 2029-12-31T22:30:00.000Z (1 h 30 min ago)",
    "  to do: see",
    "  there",
  ]);
});

test("a table shows no name that a terminal could take for a command, and keeps lines", () => {
  expect(
    table([
      ["user", "a\u001b[2Jb"],
      ["to do", "one\ntwo"],
    ]),
  ).toBe("user   a\\u001b[2Jb\nto do  one\ntwo");
});
