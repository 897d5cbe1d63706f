import { describe, expect, test } from "bun:test";
import type { Prospect } from "../../src/observe/outcome.ts";
import {
  durationText,
  missedText,
  type Row,
  reportText,
  screenLines,
  tableLines,
  versionsText,
} from "../../src/observe/report.ts";
import { named } from "./support.ts";

const role: Prospect = {
  outcome: {
    kind: "role",
    role: "arn:aws:iam::123456789012:role/Data",
    rule: "data",
    reason: "rule matched",
    request: {} as never,
  },
  lost: ["user-data"],
};
const refused: Prospect = { outcome: { kind: "refused", rule: null, reason: "no rule matched" }, lost: [] };
const rows: Row[] = [
  {
    caller: named("alice", { arguments: ["/opt/bin/aws", "s3"], requests: 1_234, v1: 3 }),
    prospect: role,
  },
  {
    caller: named("root", {
      uid: 0,
      place: { kind: "unit", name: "snapd.service" },
      program: "/usr/bin/curl",
    }),
    prospect: null,
  },
  {
    caller: named(null, {
      uid: null,
      container: "172.17.0.2",
      place: { kind: "bridge" },
      program: "unknown",
    }),
    prospect: refused,
  },
];
const options = {
  runs: [{ fromMs: 0, toMs: 90_000, missed: 0 }],
  missed: "nothing missed",
  config: "c.yaml",
  columns: 80,
};

describe("tableLines()", () => {
  test("is a line for each caller", () => {
    expect(tableLines(rows, 80)).toEqual([
      "USER        WHERE                 PROGRAM          ASKED IMDS WOULD GET",
      "alice       login session         python3.11 aws    1234 1+2  Data; 1x 404",
      "root        snapd.service         curl                 1 2    -",
      "172.17.0.2  container             unknown              1 2    refused",
    ]);
  });
  test("fits 80 columns whatever the texts are, and shows no escape sequence", () => {
    const hostile = "\x1b[2J\u202e\n".repeat(60);
    const place = { kind: "unit", name: hostile } as const;
    const row = { caller: named(hostile, { place, program: `/${hostile}`, requests: 1e15 }), prospect: role };
    for (const line of tableLines([row], 80)) {
      expect(line.length).toBeLessThanOrEqual(80);
      expect(line).toMatch(/^[ -~]*$/);
    }
  });
  test("gives a wider terminal's room to the last column", () => {
    const long = {
      ...refused,
      outcome: { ...role.outcome, role: `arn:aws:iam::1:role/${"R".repeat(60)}` } as never,
    };
    const [, line] = tableLines([{ caller: named("a"), prospect: long }], 140);
    expect(line).toContain("R".repeat(60));
  });
});

test("screenLines() fit the terminal, and say how many callers do not", () => {
  const many = Array.from({ length: 100 }, () => rows[0] as Row);
  const lines = screenLines(
    many,
    { sinceMs: 61_000, leftMs: 3_600_000, missed: "nothing missed" },
    { columns: 80, lines: 24 },
  );
  expect(lines.length).toBeLessThan(24);
  expect(lines.every((line) => line.length <= 80)).toBe(true);
  expect(lines.slice(0, 2)).toEqual([
    "imdsproxy observe: 1 min 1 s, 1 h left",
    "123,400 requests by 100 callers; nothing missed",
  ]);
  expect(lines.at(-1)).toBe("and 82 callers more");
  expect(screenLines(rows, { sinceMs: 0, leftMs: null, missed: "x" }, { columns: 20, lines: 3 }).length).toBe(
    2,
  );
});

describe("reportText()", () => {
  test("says what would be lost, who is refused and who has no token", () => {
    expect(reportText(rows, options)).toContain(
      [
        "",
        "asked for now, and not answered then (404; key imds.allow opens some by name):",
        "  alice, login session, python3.11 /opt/bin/aws s3: user-data",
        "",
        "refused then:",
        "  172.17.0.2, container: no rule matched",
        "",
        "ask without a token (IMDSv1), which imds.tokens: required refuses:",
        "  alice, login session, python3.11 /opt/bin/aws s3: 3 requests",
      ].join("\n"),
    );
  });
  test("begins with how much, how long and what was missed", () => {
    expect(reportText(rows, options).split("\n")[0]).toBe(
      "1,236 requests by 3 callers in 1 min 30 s; nothing missed",
    );
    expect(reportText([], options)).toBe("0 requests by 0 callers in 1 min 30 s; nothing missed");
  });
  test("says how to name a configuration where there is none", () => {
    expect(reportText(rows, { ...options, config: null })).toContain("--config FILE");
  });
});

test("durationText() has the two largest units", () => {
  const CASES: [number, string][] = [
    [0, "0 s"],
    [900, "1 s"],
    [61_000, "1 min 1 s"],
    [3_600_000, "1 h"],
    [85_680_000, "23 h 48 min"],
    [90_000_000, "1 d 1 h"],
  ];
  for (const [ms, text] of CASES) expect(durationText(ms)).toBe(text);
});
test("missedText() and versionsText()", () => {
  expect([missedText(0, false), missedText(1, false), missedText(2_000, true), missedText(0, true)]).toEqual([
    "nothing missed",
    "1 packet missed",
    "at least 2,000 packets missed",
    "at least 1 packet missed",
  ]);
  expect(missedText(0, false, true)).toBe("0 packets missed, and what was asked while the rules were away");
  expect([versionsText({ v1: 1, v2: 0 }), versionsText({ v1: 0, v2: 0 })]).toEqual(["1", "?"]);
});
