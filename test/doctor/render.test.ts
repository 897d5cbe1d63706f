import { describe, expect, test } from "bun:test";
import { build } from "../../src/doctor/build.ts";
import { CHECKS } from "../../src/doctor/checks.ts";
import { harmless, harmlessJson } from "../../src/doctor/harmless.ts";
import { explainText, listText, reportText } from "../../src/doctor/render.ts";
import { sarif } from "../../src/doctor/sarif.ts";
import { known } from "../../src/doctor/types.ts";
import { clean, PROCESS } from "./support.ts";

/** What a user can put into a name: a title for the window, a colour, a line of its own, the other direction, half a pair. */
const HOSTILE = "x\u001b]0;pwned\u0007\u001b[31m\nOPEN     \u009b2J\u202egnp\ud800\\u{1b}";
const report = build({
  ...clean(),
  processes: known([{ ...PROCESS, name: HOSTILE, secretInArguments: true }], "/proc", [
    `the home ${HOSTILE} does not answer`,
  ]),
  groups: known([{ group: "adm", members: [HOSTILE] }], "getent group"),
});
/** What a terminal could act on: everything but printable text and the end of a line. */
const ACTS = /[^\P{C}\n]/u;

describe("reportText()", () => {
  test("says first whether something lets a user through, and how much could not be looked at", () => {
    expect(reportText(report).split("\n\n")[0]?.replaceAll(/\s+/g, " ")).toBe(
      "as nobody (uid 65534): OPEN: one way leads an ordinary user to what is not theirs; one warning; 3 things could not be looked at",
    );
    expect(reportText(build(clean()))).toStartWith(
      "as nobody (uid 65534): nothing that was looked at lets an ordinary user\n  through\n",
    );
  });

  test("fits 80 columns, and has each finding with its reason, remedy, command and source", () => {
    const text = reportText(report);
    for (const line of text.split("\n")) expect([line, line.length <= 80]).toEqual([line, true]);
    expect(text).toMatch(/^OPEN {5}process-arguments: /m);
    expect(text).toMatch(/^WARNING {2}log-readers: /m);
    for (const label of ["why", "mend", "run", "from"])
      expect(text).toMatch(new RegExp(`^  ${label} +\\S`, "m"));
  });

  test("keeps the lines of a remedy, such as a policy", () => {
    const remedy = 'add:\n{\n  "Effect": "Allow"\n}';
    const denied = { id: "sts", what: "denied", since: "now", remedy, lasting: true };
    expect(reportText(build({ ...clean(), health: known([denied], "the proxy") }))).toContain(
      '  mend   add:\n         {\n           "Effect": "Allow"\n         }\n',
    );
  });

  test("nothing that a user named acts on the terminal, or makes a line of its own", () => {
    const text = reportText(report);
    expect(ACTS.test(text)).toBe(false);
    expect(text).toContain("x\\u{1b}]0;pwned\\u{7}");
    expect(text.match(/^OPEN {5}/gm)).toHaveLength(1);
  });
});

test("harmless() is a text that no other text gives", () => {
  expect(harmless("\u001b")).not.toBe(harmless("\\u{1b}"));
  expect(harmless("Jürgen, 名前")).toBe("Jürgen, 名前");
});

test("harmlessJson() means the same, and acts on no terminal", () => {
  const text = harmlessJson(report);
  expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(report)));
  expect(ACTS.test(text)).toBe(false);
});

describe("sarif()", () => {
  const found = sarif(report, CHECKS, "1.2.3") as {
    version: string;
    runs: {
      tool: { driver: { rules: { id: string }[] } };
      results: {
        ruleId: string;
        ruleIndex: number;
        level: string;
        message: { text: string };
        locations: unknown[];
      }[];
      invocations: {
        executionSuccessful: boolean;
        toolExecutionNotifications: { associatedRule: { index: number } }[];
      }[];
    }[];
  };
  const [run] = found.runs;

  test("has a rule for each check, and each finding as a result of its rule", () => {
    expect(found.version).toBe("2.1.0");
    expect(run?.tool.driver.rules.map(({ id }) => id)).toEqual(CHECKS.map(({ id }) => id));
    expect(run?.results.map(({ ruleId, level }) => [ruleId, level])).toEqual([
      ["process-arguments", "error"],
      ["log-readers", "warning"],
    ]);
    for (const { ruleId, ruleIndex, locations } of run?.results ?? []) {
      expect(run?.tool.driver.rules[ruleIndex]?.id).toBe(ruleId);
      expect(locations).toHaveLength(1);
    }
  });

  test("says what could not be looked at, and nothing in it acts on a terminal", () => {
    expect(run?.invocations[0]?.toolExecutionNotifications).toHaveLength(3);
    for (const { associatedRule } of run?.invocations[0]?.toolExecutionNotifications ?? [])
      expect(associatedRule.index).toBeGreaterThanOrEqual(0);
    expect(ACTS.test(harmlessJson(found))).toBe(false);
    expect(ACTS.test(run?.results[0]?.message.text ?? "")).toBe(false);
  });
});

test("list and explain fit 80 columns, and have every check", () => {
  const list = listText(CHECKS);
  const fits = (text: string) => {
    for (const line of text.split("\n"))
      expect([line, line.length <= 80 || !line.trim().includes(" ")]).toEqual([line, true]);
  };
  fits(list);
  for (const check of CHECKS) {
    expect(list).toContain(check.id);
    const text = explainText(check);
    fits(text);
    expect(text.replaceAll(/\s+/g, " ")).toContain(check.why);
  }
});
